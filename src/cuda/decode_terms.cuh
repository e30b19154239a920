// Norms of the keys and values of a page, in f32, in the order in which the lanes of a warp use them.
#pragma once

#include "cuda/page_layout.h"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

inline constexpr float kLeastLogNorm = -30.0f;

// f32 terms of the keys of a page: four of key slots 16 k + 8 r + 2 t + e, r, e = 0, 1, from term_offset(t, k)
// on.
struct PageTerms {
  float* key_norms;  // negative where the mean index is 0
  float* value_norms;
  float* log_norms;
};

// Turned for t = 2, 3, so that the lanes of a warp meet different banks.
__device__ __forceinline__ int term_offset(int t, int k) { return 16 * t + 4 * (k ^ (t & 2)); }

__device__ __forceinline__ float4 load_four(const float* terms, int k, int lane) {
  return *reinterpret_cast<const float4*>(terms + term_offset(lane % 4, k));
}

__device__ __forceinline__ float key_norm_of(std::uint32_t byte) {
  const float norm = exp2_fast(static_cast<float>(byte & 127) * 0.0625f - 3.0f);
  return (byte & 128) != 0 ? norm : -norm;
}

// Returns the norm bytes of two keys per lane.
__device__ __forceinline__ std::uint32_t load_terms(const std::uint8_t* key_norms,
                                                    const std::uint8_t* value_norms, const PageTerms& terms,
                                                    int lane) {
  std::uint32_t keys = reinterpret_cast<const std::uint16_t*>(key_norms)[lane];
  std::uint32_t values = reinterpret_cast<const std::uint16_t*>(value_norms)[lane];
  if (lane < 16) {  // cells 31..0 are slots 32..63
    keys = permute(keys, 0, 0x4401);
    values = permute(values, 0, 0x4401);
  }
  const int slot = lane < 16 ? 62 - 2 * lane : 2 * lane - 32;
  const int at = term_offset(slot % 8 / 2, slot / 16) + slot % 16 / 8 * 2;
  const auto log_norm = [](std::uint32_t byte) {
    return byte == 0 ? kLeastLogNorm : static_cast<float>(byte) * 0.0625f - 10.0f;
  };
  const std::uint32_t v0 = values & 255, v1 = values >> 8;
  const float log0 = log_norm(v0), log1 = log_norm(v1);
  *reinterpret_cast<float2*>(terms.key_norms + at) =
      make_float2(key_norm_of(keys & 255), key_norm_of(keys >> 8));
  *reinterpret_cast<float2*>(terms.log_norms + at) = make_float2(log0, log1);
  *reinterpret_cast<float2*>(terms.value_norms + at) =
      make_float2(v0 == 0 ? 0.0f : exp2_fast(log0), v1 == 0 ? 0.0f : exp2_fast(log1));
  __syncwarp();
  return keys;
}

}  // namespace gtq::cuda
