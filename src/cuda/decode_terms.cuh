// Norms of the keys and values of a page, in f32, in the order in which the lanes of a warp use them.
#pragma once

#include "cuda/page_layout.h"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

inline constexpr float kLeastLogNorm = -30.0f;

// f32 terms of the keys of a page.
struct PageTerms {
  float* key_norms;  // negative where the mean index is 0
  float* value_norms;
  float* log_norms;
};

// Of key slots column, 8 + column, 16 + column, ...: eight in a row. Room after column 3, so that the lanes of
// a warp meet different banks.
__device__ __forceinline__ int term_offset(int column) { return 8 * column + column / 4 * 4; }

// Half of them.
__device__ __forceinline__ float4 load_four(const float* terms, int column, int half) {
  return reinterpret_cast<const float4*>(terms + term_offset(column))[half];
}

// byte / 16 + offset, exactly: 2^23 + byte is the number with `byte` as its lowest bits.
__device__ __forceinline__ float sixteenths(std::uint32_t byte, float offset) {
  return fmaf(__uint_as_float(0x4B000000u | byte), 0.0625f, offset - 524288.0f);
}

__device__ __forceinline__ float key_norm_of(std::uint32_t byte) {
  const float norm = exp2_fast(sixteenths(byte & 127, -3.0f));
  return (byte & 128) != 0 ? norm : -norm;
}

// Returns the norm bytes of two keys per lane.
__device__ __forceinline__ std::uint32_t load_terms(const std::uint8_t* key_norms,
                                                    const std::uint8_t* value_norms, const PageTerms& terms,
                                                    int lane) {
  const int first = term_offset(lane % 8) + lane / 8;
  std::uint32_t keys[2], values[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int cell = cell_of_slot(32 * half + lane);
    keys[half] = key_norms[cell];
    values[half] = value_norms[cell];
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = first + 4 * half;
    const float log_norm = values[half] == 0 ? kLeastLogNorm : sixteenths(values[half], -10.0f);
    terms.key_norms[at] = key_norm_of(keys[half]);
    terms.log_norms[at] = log_norm;
    terms.value_norms[at] = values[half] == 0 ? 0.0f : exp2_fast(log_norm);
  }
  __syncwarp();
  return keys[0] | keys[1] << 8;
}

}  // namespace gtq::cuda
