#include "codec/quantizer.h"

#include <limits>

namespace gtq {

Quantizer::Quantizer(int width) {
  const int n_codes = 1 << width;
  const std::int8_t* levels = codebook_levels(width);
  const float step = codebook_step(width);
  for (int i = 0; i < n_codes; ++i) centroids_[i] = static_cast<float>(levels[i]) * step;
  for (int i = 0; i + 1 < n_codes; ++i) {
    thresholds_[i] = 0.5f * static_cast<float>(levels[i] + levels[i + 1]) * step;
  }
  thresholds_[n_codes - 1] = std::numeric_limits<float>::infinity();
  for (int c = 0; c < kCells; ++c) {
    int before = 0;
    while (before + 1 < n_codes && cell(thresholds_[before]) < c) ++before;
    thresholds_before_[c] = static_cast<std::uint8_t>(before);
  }
}

const Quantizer& Quantizer::of(int width) {
  static const std::array<Quantizer, kMaxWidth> all = {Quantizer(1), Quantizer(2), Quantizer(3),
                                                       Quantizer(4), Quantizer(5), Quantizer(6)};
  return all[width - 1];
}

}  // namespace gtq
