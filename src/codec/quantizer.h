// Nearest centroid of a codebook.
#pragma once

#include <array>
#include <cstdint>

#include "gtq/codec.h"

namespace gtq {

class Quantizer {
 public:
  static const Quantizer& of(int width);

  // Number of decision thresholds (midpoints between centroids) below x.
  std::uint8_t code(float x) const {
    int code = 0;
    for (int bit = n_codes_ / 2; bit > 0; bit /= 2) {
      if (x > thresholds_[code + bit - 1]) code += bit;
    }
    return static_cast<std::uint8_t>(code);
  }
  float centroid(std::uint8_t code) const { return centroids_[code]; }

 private:
  explicit Quantizer(int width);

  int n_codes_;
  std::array<float, 1 << kMaxWidth> centroids_{};
  std::array<float, 1 << kMaxWidth> thresholds_{};
};

}  // namespace gtq
