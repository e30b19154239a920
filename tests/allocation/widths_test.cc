#include "allocation/widths.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "gtq/allocation.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

double total(const std::vector<double>& costs, const std::vector<std::uint8_t>& widths) {
  double sum = 0;
  for (std::size_t g = 0; g < costs.size(); ++g) sum += costs[g] * gaussian_distortion(widths[g]);
  return sum;
}

// Least total over every way to choose the widths.
double least_total(const std::vector<double>& costs, int n_bits) {
  double least = std::numeric_limits<double>::infinity();
  std::vector<std::uint8_t> widths(costs.size(), kMinWidth);
  for (;;) {
    if (std::accumulate(widths.begin(), widths.end(), 0) == n_bits)
      least = std::min(least, total(costs, widths));
    std::size_t g = 0;
    while (g < widths.size() && widths[g] == kMaxWidth) widths[g++] = kMinWidth;
    if (g == widths.size()) return least;
    ++widths[g];
  }
}

TEST(AllocateWidths, IsOptimal) {
  testing::Random random(7);
  int n_uneven = 0;
  for (int trial = 0; trial < 60; ++trial) {
    const int n = 1 + trial % 5;
    std::vector<double> costs;
    for (int g = 0; g < n; ++g) costs.push_back(std::pow(10.0, random.uniform(-3, 3)));
    for (int n_bits = n; n_bits <= 6 * n; ++n_bits) {
      const auto widths = allocate_widths(costs, n_bits);
      ASSERT_EQ(std::accumulate(widths.begin(), widths.end(), 0), n_bits);
      const double best = least_total(costs, n_bits);
      EXPECT_NEAR(total(costs, widths), best, 1e-12 * best);
      const auto [low, high] = std::ranges::minmax(widths);
      if (high - low > 1) ++n_uneven;
    }
  }
  EXPECT_GT(n_uneven, 100);  // else the costs were too alike to test anything
}

TEST(AllocateWidths, EqualCostsAreServedFromTheEnd) {
  const std::vector<double> costs(4, 1.0);
  EXPECT_EQ(allocate_widths(costs, 14), (std::vector<std::uint8_t>{3, 3, 4, 4}));
}

TEST(AllocateWidths, AscendingCostsGiveAscendingWidths) {
  testing::Random random(8);
  for (int trial = 0; trial < 100; ++trial) {
    std::vector<double> costs;
    for (int g = 0; g < 8; ++g) costs.push_back(std::pow(10.0, random.uniform(-2, 2)));
    std::ranges::sort(costs);
    const auto widths = allocate_widths(costs, 8 + trial % 41);
    EXPECT_TRUE(std::ranges::is_sorted(widths));
  }
}

}  // namespace
}  // namespace gtq
