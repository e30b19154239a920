#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/error.h"

namespace gtq {
namespace {

TEST(Budget, RoundTripsEveryBudget) {
  for (int k = 1; k <= 6; ++k) {
    for (int v = 1; v <= 6; ++v) {
      const std::string text = "k" + std::to_string(k) + "v" + std::to_string(v);
      const Budget budget = parse_budget(text);
      EXPECT_EQ(budget.k_bits, k);
      EXPECT_EQ(budget.v_bits, v);
      EXPECT_EQ(to_string(budget), text);
    }
  }
}

TEST(Budget, RoundTripsFractions) {
  for (int k = 100; k <= 600; ++k) {
    const Budget budget = parse_budget(to_string(Budget{k / 100.0, (700 - k) / 100.0}));
    EXPECT_EQ(budget.k_bits, k / 100.0);
    EXPECT_EQ(budget.v_bits, (700 - k) / 100.0);
    EXPECT_EQ(hundredths(budget.k_bits), k);
  }
  EXPECT_EQ(to_string(parse_budget("k3.5v2.25")), "k3.5v2.25");
  EXPECT_EQ(to_string(parse_budget("k3.50v2.0")), "k3.5v2");
}

TEST(Budget, RefusesEverythingElseWithAnExample) {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {""sv,        "k"sv,      "k4"sv,       "k4v"sv,   "k0v4"sv,  "k7v4"sv,     "k4v0"sv,
        "k4v7"sv,    "K4v4"sv,   "k4V4"sv,     "v4k4"sv,  "k4v4 "sv, " k4v4"sv,    "k44v4"sv,
        "k4v4\0"sv,  "q4_0"sv,   "k-v4"sv,     "k4v3."sv, "k4v.5"sv, "k4v3.125"sv, "k6.01v4"sv,
        "k0.99v4"sv, "k4v3,5"sv, "k3.5.5v4"sv, "k4v1e0"sv}) {
    try {
      parse_budget(text);
      ADD_FAILURE() << "accepted \"" << text << "\"";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("for example k4v4"), std::string::npos) << message;
      EXPECT_NE(message.find(std::string(text).c_str()), std::string::npos) << message;
    }
  }
}

TEST(CacheBudget, RoundTrips) {
  for (const std::string text : {"k4v4", "k3.5v3.25", "k3v3r64", "k2.25v2r128", "k1v6r1024"}) {
    EXPECT_EQ(to_string(parse_cache_budget(text)), text);
  }
  const CacheBudget budget = parse_cache_budget("k3v3r128");
  EXPECT_EQ(budget.tokens.k_bits, 3);
  EXPECT_EQ(budget.recent, 128);
}

TEST(CacheBudget, RefusesEverythingElseWithAnExample) {
  for (const std::string text :
       {"", "r128", "k3v3r", "k3v3r0", "k3v3r63", "k3v3r100", "k3v3r1088", "k3v3r-64", "k3v3 r64", "k3v3r64r64",
        "k3v3r064", "k3v3r64 ", "k7v3r64", "k3v3r99999999999999999999"}) {
    try {
      parse_cache_budget(text);
      ADD_FAILURE() << "accepted \"" << text << "\"";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find("or k3v3r128 with"), std::string::npos) << message;
      EXPECT_NE(message.find("\"" + text + "\""), std::string::npos) << message;
    }
  }
}

TEST(Budget, TrueBitsCountTheNormByte) {
  EXPECT_DOUBLE_EQ(true_bits_k(128, {3, 4}), 3.0625);
  EXPECT_DOUBLE_EQ(true_bits_v(128, {3, 4}), 4.0625);
  EXPECT_DOUBLE_EQ(true_bits_k(64, {3, 4}), 3.125);
}

double upper_tail(double x) { return std::erfc(x / std::numbers::sqrt2) / 2; }
double density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

// Distortion of the Lloyd-Max quantizer by Lloyd's iteration over the positive half.
double lloyd_max_distortion(int width) {
  const int n = 1 << (width - 1);
  std::vector<double> centroids(n), mass(n);
  for (int i = 0; i < n; ++i) centroids[i] = (i + 0.5) / n * (1 + 0.7 * width);
  double change = 1;
  for (int step = 0; change > 1e-13 && step < 100000; ++step) {
    change = 0;
    double low = 0;
    for (int i = 0; i < n; ++i) {
      const bool last = i == n - 1;
      const double high =
          last ? std::numeric_limits<double>::infinity() : (centroids[i] + centroids[i + 1]) / 2;
      mass[i] = upper_tail(low) - (last ? 0 : upper_tail(high));
      const double centroid = (density(low) - (last ? 0 : density(high))) / mass[i];
      change = std::max(change, std::abs(centroid - centroids[i]));
      centroids[i] = centroid;
      low = high;
    }
  }
  double energy = 0;
  for (int i = 0; i < n; ++i) energy += 2 * mass[i] * centroids[i] * centroids[i];
  return 1 - energy;
}

TEST(GaussianDistortion, IsThatOfLloydMax) {
  EXPECT_NEAR(gaussian_distortion(1), 1 - 2 / std::numbers::pi, 1e-10);
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    EXPECT_NEAR(gaussian_distortion(width), lloyd_max_distortion(width), 1e-10) << width;
  }
}

TEST(GaussianDistortion, IsConvex) {
  for (int width = kMinWidth + 1; width < kMaxWidth; ++width) {
    EXPECT_GT(gaussian_distortion(width - 1) - gaussian_distortion(width),
              gaussian_distortion(width) - gaussian_distortion(width + 1));
  }
}

TEST(GaussianDistortion, RefusesOtherWidths) {
  EXPECT_THROW(gaussian_distortion(0), Error);
  EXPECT_THROW(gaussian_distortion(7), Error);
}

}  // namespace
}  // namespace gtq
