// Vectors as integers of one exponent, and their codes at a norm. Sums of integers are the same in any order,
// so every encoder takes them as its machine likes and still gives the same bytes (docs/format.md, "Encoding").
#pragma once

#include <cstdint>

#include "gtq/codec.h"

namespace gtq {

// Transformed numbers are limited to this before the Hadamard transform: far beyond every norm byte, and no sum
// overflows. A vector whose largest number is below kNothing is taken as zeros.
inline constexpr float kLargestCoded = 0x1p40f;
inline constexpr float kNothing = 0x1p-40f;
inline constexpr int kFixedBits = 15;
inline constexpr int kScaledOne = 1 << 10;  // the norm, in units of a scaled number

// y[i] is about f[i] * unit, |f[i]| < 2^15; unit is a power of two.
struct FixedVector {
  std::int16_t f[kMaxHeadDim];
  float unit;
};

// Power of two by which the largest absolute number of a vector becomes 2^14 to 2^15; 1 for none.
float fixed_unit(float largest);
void to_fixed(const float* y, int n, FixedVector* out);

// (|f| * multiplier + 2^14) >> 15 is |f| * unit / norm * kScaledOne.
int norm_multiplier(float unit, float inverse_norm);

// The upper half of a codebook; the lower half mirrors it. Index i stands for code n_levels + i of a positive
// number and for code n_levels - 1 - i of any other.
struct UpperCodebook {
  int n_levels;
  float step;
  std::int16_t thresholds[31];  // n_levels - 1: between levels i and i + 1, as scaled numbers
  std::uint8_t levels[32];
  std::int16_t rises[31];  // from level i to level i + 1

  static const UpperCodebook& of(int width);
};

// Centroids of n codes of this width.
void put_centroids(int width, const std::uint8_t* codes, int n, float* centroids);

// Sums over the numbers of a vector: |f| level, level^2.
struct CodeSums {
  std::uint32_t yc, cc;
};
CodeSums sum_codes(const UpperCodebook& book, const std::int16_t* f, int n, int multiplier);
std::uint64_t sum_squares(const std::int16_t* f, int n);
void find_codes(const UpperCodebook& book, const std::int16_t* f, int n, int multiplier, std::uint8_t* codes);

}  // namespace gtq
