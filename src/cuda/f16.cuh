// Pairs of f16 numbers in a register.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

namespace gtq::cuda {

__device__ __forceinline__ std::uint32_t pack_f16(float low, float high) {
  const __half2 packed = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&packed);
}

__device__ __forceinline__ float2 unpack_f16(std::uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

}  // namespace gtq::cuda
