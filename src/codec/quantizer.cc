#include "codec/quantizer.h"

namespace gtq {

Quantizer::Quantizer(int width) : n_codes_(1 << width) {
  const std::int8_t* levels = codebook_levels(width);
  const float step = codebook_step(width);
  for (int i = 0; i < n_codes_; ++i) centroids_[i] = static_cast<float>(levels[i]) * step;
  for (int i = 0; i + 1 < n_codes_; ++i) {
    thresholds_[i] = 0.5f * static_cast<float>(levels[i] + levels[i + 1]) * step;
  }
}

const Quantizer& Quantizer::of(int width) {
  static const std::array<Quantizer, kMaxWidth> all = {Quantizer(1), Quantizer(2), Quantizer(3),
                                                       Quantizer(4), Quantizer(5), Quantizer(6)};
  return all[width - 1];
}

}  // namespace gtq
