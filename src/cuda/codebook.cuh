// Packed codes of one lane -> int8 levels, four per register, in fragment order (page_layout.h).
//
// A byte permute looks up four codes of three bits at once. Codes of more bits: let n be the complement of the
// high bits b3, b4, b5 of a stored code and i its low three. Then level = xor over S, a subset of the one bits
// of n, of table[S][i] (the tables are a Moebius transform of the codebook). A table takes part when all its
// bits of b are 0; otherwise bit 3 of the selector nibble replicates the sign of its entry, which is 0: levels
// of codes with the same low three bits have the same sign, so their exclusive-ors have the sign bit clear. Of
// 4 bits, the second table is subtracted: levels rise with codes, so no byte borrows, and sums have other pipes
// than logic. Exact: the levels are those of codebook_levels().
#pragma once

#include <type_traits>

#include "cuda/ptx.cuh"
#include "cuda/tables.h"

namespace gtq::cuda {

inline constexpr std::uint32_t kIndexBits = 0x77777777u;
inline constexpr std::uint32_t kHighBits = 0x88888888u;

// f(std::integral_constant<int, B>) for codes of `width` bits; kWidth: the width where it is known, else 0.
template <int kWidth, typename F>
__device__ __forceinline__ void for_width(int width, F f) {
  if constexpr (kWidth != 0) return f(std::integral_constant<int, kWidth>{});
  switch (width) {
    case 1:
      return f(std::integral_constant<int, 1>{});
    case 2:
      return f(std::integral_constant<int, 2>{});
    case 3:
      return f(std::integral_constant<int, 3>{});
    case 4:
      return f(std::integral_constant<int, 4>{});
    case 5:
      return f(std::integral_constant<int, 5>{});
    default:
      return f(std::integral_constant<int, 6>{});
  }
}

// The B words of a lane.
template <int B>
__device__ __forceinline__ void load_words(const std::uint8_t* unit, int lane, std::uint32_t (&w)[B]) {
  if constexpr (B == 1) {
    w[0] = reinterpret_cast<const std::uint32_t*>(unit)[lane];
  } else if constexpr (B <= 3) {
    const uint2 v = reinterpret_cast<const uint2*>(unit)[lane];
    w[0] = v.x;
    w[1] = v.y;
    if constexpr (B == 3) w[2] = reinterpret_cast<const std::uint32_t*>(unit + 256)[lane];
  } else {
    const uint4 v = reinterpret_cast<const uint4*>(unit)[lane];
    w[0] = v.x;
    w[1] = v.y;
    w[2] = v.z;
    w[3] = v.w;
    if constexpr (B == 5) w[4] = reinterpret_cast<const std::uint32_t*>(unit + 512)[lane];
    if constexpr (B == 6) {
      const uint2 u = reinterpret_cast<const uint2*>(unit + 512)[lane];
      w[4] = u.x;
      w[5] = u.y;
    }
  }
}

// The high 16 bits of selectors all of whose nibbles are below 8, in the low ones. As f16 numbers times one:
// byte permutes, logic and shifts share a pipe, f16 products have another. Exact: such halves are finite.
__device__ __forceinline__ std::uint32_t upper_half(std::uint32_t selectors) {
  std::uint32_t result;
  asm("{\n"
      ".reg .b16 low, high;\n"
      ".reg .b32 both;\n"
      "mov.b32 {low, high}, %1;\n"
      "mov.b32 both, {high, high};\n"
      "mul.rn.f16x2 %0, both, %2;\n"
      "}"
      : "=r"(result)
      : "r"(selectors), "r"(0x3C003C00));
  return result;
}

// Registers 2 k and 2 k + 1 from selectors of 8 nibbles, one per table; those of the first table are below 8.
template <int N>
__device__ __forceinline__ void look_up(const std::uint32_t* tables, const std::uint32_t (&selectors)[N],
                                        std::uint32_t& first, std::uint32_t& second) {
  first = permute(tables[0], tables[1], selectors[0]);
  second = permute(tables[0], tables[1], upper_half(selectors[0]));
#pragma unroll
  for (int s = 1; s < N; ++s) {
    const std::uint32_t a = permute(tables[2 * s], tables[2 * s + 1], selectors[s]);
    const std::uint32_t b = permute(tables[2 * s], tables[2 * s + 1], selectors[s] >> 16);
    first = N == 2 ? first - a : first ^ a;
    second = N == 2 ? second - b : second ^ b;
  }
}

// Bit plane p (0 or 1) of the two-bit fields of word 4 + k / 2, at bit 3 of each nibble.
__device__ __forceinline__ std::uint32_t high_plane(std::uint32_t word, int k, int plane) {
  return (word << (3 - 2 * (k & 1) - plane)) & kHighBits;
}

template <int B>
__device__ __forceinline__ void expand(const std::uint32_t (&w)[B], const Luts& luts, std::uint32_t (&r)[8]) {
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if constexpr (B == 1) {
      const std::uint32_t s = (w[0] >> k) & 0x11111111u;
      r[2 * k] = permute(luts.w1, luts.w1, s);
      r[2 * k + 1] = permute(luts.w1, luts.w1, upper_half(s));
    } else if constexpr (B == 2) {
      const std::uint32_t s = (w[k / 2] >> (2 * (k % 2))) & 0x33333333u;
      r[2 * k] = permute(luts.w2, luts.w2, s);
      r[2 * k + 1] = permute(luts.w2, luts.w2, upper_half(s));
    } else if constexpr (B == 3) {
      const std::uint32_t s[1] = {k < 3 ? w[k % 3] & kIndexBits
                                        : ((w[0] >> 3) & 0x11111111u) | ((w[1] >> 2) & 0x22222222u) |
                                              ((w[2] >> 1) & 0x44444444u)};
      look_up<1>(luts.w3, s, r[2 * k], r[2 * k + 1]);
    } else if constexpr (B == 4) {
      const std::uint32_t s[2] = {w[k] & kIndexBits, w[k]};
      look_up<2>(luts.w4, s, r[2 * k], r[2 * k + 1]);
    } else if constexpr (B == 5) {
      const std::uint32_t i = w[k] & kIndexBits, b4 = (w[4] << (3 - k)) & kHighBits;
      const std::uint32_t s[4] = {i, w[k], i | b4, w[k] | b4};
      look_up<4>(luts.w5, s, r[2 * k], r[2 * k + 1]);
    } else {
      const std::uint32_t i = w[k] & kIndexBits;
      const std::uint32_t b4 = high_plane(w[4 + k / 2], k, 0), b5 = high_plane(w[4 + k / 2], k, 1);
      const std::uint32_t s[8] = {i, w[k], i | b4, w[k] | b4, i | b5, w[k] | b5, i | b4 | b5, w[k] | b4 | b5};
      look_up<8>(luts.w6, s, r[2 * k], r[2 * k + 1]);
    }
  }
}

}  // namespace gtq::cuda
