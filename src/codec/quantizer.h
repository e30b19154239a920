// Nearest centroid of a codebook, by a grid over the numbers that are not clipped anyway: no cell of the grid
// holds two thresholds, so a code is the number of thresholds in the cells before, plus one comparison.
#pragma once

#include <array>
#include <cstdint>

#include "gtq/codec.h"

namespace gtq {

class Quantizer {
 public:
  static const Quantizer& of(int width);

  // Number of decision thresholds (midpoints between centroids) below x; 0 for NaN.
  std::uint8_t code(float x) const {
    const std::uint8_t before = thresholds_before_[cell(x)];
    return static_cast<std::uint8_t>(before + (x > thresholds_[before] ? 1 : 0));
  }
  float centroid(std::uint8_t code) const { return centroids_[code]; }
  // Between codes i and i + 1.
  float threshold(int i) const { return thresholds_[i]; }

 private:
  static constexpr int kCells = 256;
  static constexpr float kRange = 4.0f;  // every threshold is less than this away from 0

  explicit Quantizer(int width);

  // Does not decrease with x, which is all that code() needs.
  static int cell(float x) {
    x = x > -kRange ? x : -kRange;
    const int cell = static_cast<int>((x < kRange ? x : kRange) * (kCells / (2 * kRange)) + kCells / 2);
    return cell < kCells ? cell : kCells - 1;
  }

  std::array<float, 1 << kMaxWidth> centroids_{};
  std::array<float, 1 << kMaxWidth> thresholds_{};  // the last one is infinite
  std::array<std::uint8_t, kCells> thresholds_before_{};
};

}  // namespace gtq
