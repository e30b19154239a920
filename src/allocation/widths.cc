#include "allocation/widths.h"

#include <algorithm>

#include "gtq/allocation.h"

namespace gtq {

std::vector<std::uint8_t> allocate_widths(std::span<const double> costs, int n_bits) {
  std::vector<std::uint8_t> widths(costs.size(), kMinWidth);
  const auto gain = [&](std::size_t g) {
    return costs[g] * (gaussian_distortion(widths[g]) - gaussian_distortion(widths[g] + 1));
  };
  for (int left = n_bits - kMinWidth * static_cast<int>(costs.size()); left > 0; --left) {
    std::size_t best = costs.size();
    for (std::size_t g = 0; g < costs.size(); ++g) {
      if (widths[g] < kMaxWidth && (best == costs.size() || gain(g) >= gain(best))) best = g;
    }
    if (best == costs.size()) break;  // every width is at its maximum
    ++widths[best];
  }
  return widths;
}

}  // namespace gtq
