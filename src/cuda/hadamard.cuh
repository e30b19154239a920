// Steps of a Sylvester Hadamard transform without its norm, N neighbouring elements per lane (a power of two).
#pragma once

namespace gtq::cuda {

// Over a lane's elements.
template <int N>
__device__ __forceinline__ void hadamard_own(float (&x)[N]) {
#pragma unroll
  for (int half = 1; half < N; half *= 2) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
}

// Over the lanes that differ in `bit`.
template <int N>
__device__ __forceinline__ void hadamard_lanes(float (&x)[N], int bit, int lane) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    const float other = __shfl_xor_sync(~0u, x[i], bit);
    x[i] = (lane & bit) != 0 ? other - x[i] : x[i] + other;
  }
}

}  // namespace gtq::cuda
