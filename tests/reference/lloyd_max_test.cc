#include "reference/lloyd_max.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numbers>
#include <vector>

#include "gtq/codec.h"

namespace gtq::reference {
namespace {

// Probability and first moment of [0, x] in closed form, unlike the quadrature of the code under test.
struct ClosedForm {
  std::function<double(double)> mass, moment;
};

ClosedForm gaussian_closed_form() {
  return {[](double x) { return std::erf(x / std::numbers::sqrt2) / 2; },
          [](double x) { return (1 - std::exp(-x * x / 2)) / std::sqrt(2 * std::numbers::pi); }};
}

// Not normalised. With x = sin u: integral of cos^n u by the reduction formula, of sin u cos^n u directly.
ClosedForm sphere_closed_form(int dim) {
  const auto mass = [dim](double x) {
    const double u = std::asin(x);
    double integral = dim % 2 == 0 ? u : x;
    for (int n = dim % 2 == 0 ? 2 : 3; n <= dim - 2; n += 2) {
      integral = std::pow(std::cos(u), n - 1) * x / n + (n - 1.0) / n * integral;
    }
    return integral;
  };
  const auto moment = [dim](double x) { return (1 - std::pow(std::cos(std::asin(x)), dim - 1)) / (dim - 1); };
  return {mass, moment};
}

void expect_optimal(const Codebook& codebook, const ClosedForm& form, double x_max) {
  const std::size_t n = codebook.centroids.size();
  for (std::size_t j = 0; j < n; ++j) {
    EXPECT_DOUBLE_EQ(codebook.centroids[j], -codebook.centroids[n - 1 - j]);
    if (j + 1 < n) {
      EXPECT_LT(codebook.centroids[j], codebook.centroids[j + 1]);
      EXPECT_DOUBLE_EQ(codebook.thresholds[j], (codebook.centroids[j] + codebook.centroids[j + 1]) / 2);
    }
    if (j < n / 2) continue;
    const double low = j == n / 2 ? 0 : codebook.thresholds[j - 1];
    const double high = j + 1 == n ? x_max : codebook.thresholds[j];
    const double mean = (form.moment(high) - form.moment(low)) / (form.mass(high) - form.mass(low));
    EXPECT_NEAR(codebook.centroids[j], mean, 1e-8) << "centroid " << j << " of " << n;
  }
}

TEST(LloydMax, GaussianCodebooksAreOptimal) {
  for (int width = 1; width <= 8; ++width) {
    const Codebook& codebook = gaussian_codebook(width);
    ASSERT_EQ(codebook.centroids.size(), std::size_t{1} << width);
    ASSERT_EQ(codebook.thresholds.size(), codebook.centroids.size() - 1);
    expect_optimal(codebook, gaussian_closed_form(), 12.0);
  }
}

TEST(LloydMax, GaussianDistortionsAreThePublishedOnes) {
  const double published[] = {0.3634, 0.1175, 0.03454, 0.009497};  // Max 1960, table I
  for (int width = 1; width <= 4; ++width) {
    EXPECT_NEAR(gaussian_codebook(width).distortion / published[width - 1], 1, 1e-3) << width << " bits";
  }
  // Panter and Dite: D -> sqrt(3) pi / 2 * 4^-width from below.
  const double limit = std::sqrt(3.0) * std::numbers::pi / 2 * std::pow(4.0, -8);
  EXPECT_NEAR(gaussian_codebook(8).distortion / limit, 0.99, 0.01);
}

TEST(LloydMax, SphereCodebooksAreOptimalInEveryDimension) {
  for (const int dim : {2, 3, 4, 6, 10, 16, 30, 48, 64, 80, 96, 128, 200, 256}) {
    for (int width = 1; width <= 8; ++width) {
      SCOPED_TRACE("dim " + std::to_string(dim));
      expect_optimal(sphere_codebook(dim, width), sphere_closed_form(dim), 1.0);
    }
  }
}

TEST(LloydMax, SphereOfThreeDimsIsUniform) {  // Archimedes: the coordinate is uniform on [-1, 1]
  for (int width = 1; width <= 8; ++width) {
    const double step = std::pow(2.0, 1 - width);
    EXPECT_NEAR(sphere_codebook(3, width).distortion, step * step / 12, 1e-13);
    EXPECT_NEAR(sphere_codebook(3, width).centroids.back(), 1 - step / 2, 1e-12);
  }
}

TEST(LloydMax, LargeSpheresApproachTheGaussian) {
  for (int width = 1; width <= 6; ++width) {
    const double ratio = 256 * sphere_codebook(256, width).distortion / gaussian_codebook(width).distortion;
    EXPECT_GT(ratio, 0.97);
    EXPECT_LT(ratio, 1.0);
  }
}

TEST(LloydMax, RefusesWhatItCannotMake) {
  EXPECT_THROW(sphere_codebook(1, 3), std::invalid_argument);
  EXPECT_THROW(sphere_codebook(16, 9), std::invalid_argument);
  EXPECT_THROW(gaussian_codebook(0), std::invalid_argument);
}

TEST(LloydMax, CodebooksOfTheLibraryAreTheRoundedOptimum) {
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    const GridCodebook grid = gaussian_grid_codebook(width);
    EXPECT_EQ(grid.step, codebook_step(width)) << width << " bits";
    for (int code = 0; code < 1 << width; ++code) {
      EXPECT_EQ(grid.levels[code], codebook_levels(width)[code])
          << "code " << code << " of " << width << " bits";
    }
  }
}

}  // namespace
}  // namespace gtq::reference
