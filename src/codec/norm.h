// Norm bytes, and the search for the norm of a vector: codes are found for a few norms around its rms, in steps
// of its byte, and those that fit best are taken (docs/format.md, "Encoding"). Shared by the encoders of the
// CPU. The decoding half of norm bytes is public (gtq/codec.h).
#pragma once

#include <cstdint>

namespace gtq {

// Nearest norm codes.
int key_norm_code(float norm);  // 0..127
std::uint8_t value_norm_byte(float norm);
// Smallest norm of a code above the lowest, infinity behind the highest. code: up to 256.
float key_norm_start(int code);
float value_norm_start(int code);

inline constexpr int kTriedNorms = 5;

// Multipliers (norm_multiplier) of the norms to try for a vector of this rms. [kTriedNorms]
void try_key_norms(float rms, float unit, int* multipliers);
void try_value_norms(float rms, float unit, int* multipliers);

struct NormChoice {
  int tried;               // index of the norm whose codes are taken
  std::uint8_t norm_code;  // of the norm that goes with these codes
};

// Sums over all slots of a key in units of the fixed-point vector, weighted; y the transformed residual and c
// its centroid for one of the norms: y c, c c, y y.
struct KeyFit {
  float yc[kTriedNorms], cc[kTriedNorms], yy;
};
// The codes and the norm of the smallest error.
NormChoice choose_key_norm(const KeyFit& fit, float unit);

// The same of a value, with levels in place of centroids.
struct ValueFit {
  std::uint32_t yc[kTriedNorms], cc[kTriedNorms];
  std::uint64_t yy;
};
// The codes of the smallest angle, and the norm that keeps the value's own length along them: errors of values
// that shrink them would not average out over tokens.
NormChoice choose_value_norm(const ValueFit& fit, float unit, float step);

}  // namespace gtq
