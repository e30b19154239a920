// A vector as integers, its codes at a norm, and the choice among the norms that are tried: the same for keys
// and values, and the same as codec/fixed_point.h and codec/norm.h (docs/format.md, "Encoding").
//
// A warp holds a vector: x[r][i] is element 128 r + 4 lane + i. All lanes call the functions that make
// fixed-point numbers or choose. Lane t < kTriedNorms has the sums of norm t where one lane has them. Compile
// without contraction to fused multiply-adds.
#pragma once

#include "codec/fixed_point.h"
#include "codec/norm.h"
#include "cuda/encode_tables.h"

namespace gtq::cuda {

template <int kRuns>
struct FixedRuns {
  int f[kRuns][4];
  float unit, inverse_unit;  // powers of two
};

__device__ __forceinline__ float limited(float y) { return fminf(fmaxf(y, -kLargestCoded), kLargestCoded); }

template <int kRuns>
__device__ __forceinline__ FixedRuns<kRuns> to_fixed(const float (&y)[kRuns][4]) {
  constexpr int kMost = (1 << kFixedBits) - 1;
  std::uint32_t largest = 0;  // floats above 0 ascend as their bits do
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) largest = max(largest, __float_as_uint(fabsf(y[r][i])));
  }
  largest = __reduce_max_sync(~0u, largest);
  const std::uint32_t exponent =
      __uint_as_float(largest) >= kNothing ? (largest >> 23) + 1 - kFixedBits : 127;  // biased, of the unit
  FixedRuns<kRuns> v;
  v.unit = __uint_as_float(exponent << 23);
  v.inverse_unit = __uint_as_float((254 - exponent) << 23);
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) v.f[r][i] = min(max(__float2int_rn(y[r][i] * v.inverse_unit), -kMost), kMost);
  }
  return v;
}

// Of a run: below 2^32.
__device__ __forceinline__ std::uint32_t sum_squares(const int (&f)[4]) {
  std::uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) sum += static_cast<std::uint32_t>(f[i] * f[i]);
  return sum;
}

// Nearest code. The logarithm is approximate, so its code is off by at most one.
__device__ __forceinline__ int find_norm_code(const NormTable& table, float norm) {
  constexpr float kStepsPerOctave = 16, kFar = 1000;
  const float steps = fminf(fmaxf(kStepsPerOctave * __log2f(norm), -kFar), kFar);
  const int code = min(max(table.of_one + __float2int_rn(steps), table.lowest), table.highest);
  return code + (norm >= table.starts[code + 1] ? 1 : 0) - (norm < table.starts[code] ? 1 : 0);
}

// Lane t: multiplier of norm t to try for a vector of this rms.
__device__ __forceinline__ int find_multiplier(const NormTable& table, float rms, float unit, int lane) {
  const int t = min(lane, kTriedNorms - 1), middle = find_norm_code(table, rms);
  const int code = min(max(middle + 2 * (t - kTriedNorms / 2), table.lowest), table.highest);
  const float m = static_cast<float>(kScaledOne << kFixedBits) * unit * __frcp_rn(table.norms[code]);
  return __float2int_rn(fminf(m, static_cast<float>((1 << kFixedBits) - 1)));
}

// Cell of the grid (LevelGrid) and 1 if the number lies above its threshold.
struct GridPlace {
  std::uint32_t cell;
  int above;
};
__device__ __forceinline__ GridPlace find_place(const std::uint32_t* grid, int f, int multiplier) {
  const int scaled = (abs(f) * multiplier + (1 << (kFixedBits - 1))) >> kFixedBits;
  const auto at = static_cast<unsigned>(min(scaled, kGridStep * kGridCells - 1));
  const std::uint32_t cell = grid[at / kGridStep];
  return {cell, at % kGridStep >= cell >> 24 ? 1 : 0};
}

__device__ __forceinline__ void add_code_sums(const std::uint32_t* grid, const int (&f)[4], int multiplier,
                                              CodeSums& sums) {
  std::uint32_t levels = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const GridPlace place = find_place(grid, f[i], multiplier);
    levels |= (place.cell >> 8 * place.above & 255) << 8 * i;
  }
  const auto pair = [&](int i) { return static_cast<unsigned>(abs(f[i]) | abs(f[i + 1]) << 16); };
  sums.yc = __dp2a_hi(pair(2), levels, __dp2a_lo(pair(0), levels, sums.yc));
  sums.cc = __dp4a(levels, levels, sums.cc);
}

// Codes of a run, a byte each.
__device__ __forceinline__ std::uint32_t find_codes(const std::uint32_t* grid, int width, const int (&f)[4],
                                                    int multiplier) {
  const int n_upper = 1 << (width - 1);
  std::uint32_t codes = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const GridPlace place = find_place(grid, f[i], multiplier);
    const int index = static_cast<int>(place.cell >> 16 & 255) + place.above;
    codes |= static_cast<std::uint32_t>(f[i] > 0 ? n_upper + index : n_upper - 1 - index) << 8 * i;
  }
  return codes;
}

// The norm of the least cost below `bound`, the first of equals; -1 for none.
__device__ __forceinline__ int first_below(float cost, float bound) {
  int best = -1;
#pragma unroll
  for (int t = 0; t < kTriedNorms; ++t) {
    const float other = __shfl_sync(~0u, cost, t);
    if (other < bound) {
      bound = other;
      best = t;
    }
  }
  return best;
}

struct Choice {
  int tried, norm_code;
};
// The multiplier of the codes that are taken, and the code of the norm that goes with them.
struct FoundNorm {
  int multiplier, norm_code;
};

// As choose_key_norm of codec/norm.h; yc, cc of lane t.
__device__ __forceinline__ Choice choose_key_norm(const NormTable& table, float yc, float cc, float yy,
                                                  float unit, float inverse_unit) {
  const int code = find_norm_code(table, yc / cc * unit);
  const float fitted = table.norms[code] * inverse_unit;
  const float error = yy - 2 * fitted * yc + fitted * fitted * cc;
  const int best = first_below(error, INFINITY);
  const int norm_code = __shfl_sync(~0u, code, max(best, 0));
  return {max(best, 0), best < 0 ? 0 : norm_code};
}

// As choose_value_norm of codec/norm.h; yc, cc of lane t.
__device__ __forceinline__ Choice choose_value_norm(const NormTable& table, std::uint32_t yc, std::uint32_t cc,
                                                    std::uint64_t yy, float unit, float step) {
  const auto along = static_cast<float>(yc);
  const int best = max(first_below(-(along * along / static_cast<float>(cc)), 0.0f), 0);
  const float norm = static_cast<float>(yy) / (__shfl_sync(~0u, along, best) * step) * unit;
  return {best, yy == 0 ? 0 : find_norm_code(table, norm)};
}

}  // namespace gtq::cuda
