// Nearest norm codes; the decoding half is public (gtq/codec.h).
#pragma once

#include <cstdint>

namespace gtq {

int key_norm_code(float norm);  // 0..127
std::uint8_t value_norm_byte(float norm);

// Search for the norm of a key: codes are found for these many norms around its rms, in steps of its byte, and
// those that fit best are taken. Shared by all encoders.
inline constexpr int kTriedNorms = 5;

struct NormFit {
  // Weighted sums over all slots, y the rotated residual and c its centroid for one of the norms: y c, c c, y
  // y.
  float yc[kTriedNorms], cc[kTriedNorms], yy;
};
struct NormChoice {
  int tried;      // index of the norm whose codes fit best
  int norm_code;  // of the norm that fits these codes best
};

void try_norms(float rms, float* inverse);  // [kTriedNorms]
// The same; false where another rms, different by `error` of itself, gives others.
bool try_norms_surely(float rms, float error, float* inverse);

NormChoice choose_norm(const NormFit& fit);
// The same from sums that may differ by `error` of themselves; false where others might choose differently.
// y c must not be negative for any slot.
bool choose_norm_surely(const NormFit& fit, float error, NormChoice* best);

}  // namespace gtq
