// Steps of a Sylvester Hadamard transform without its norm, 4 neighbouring elements per lane.
#pragma once

namespace gtq::cuda {

// Over a lane's elements.
__device__ __forceinline__ void hadamard_4(float (&x)[4]) {
  const float a = x[0] + x[1], b = x[0] - x[1], c = x[2] + x[3], d = x[2] - x[3];
  x[0] = a + c;
  x[1] = b + d;
  x[2] = a - c;
  x[3] = b - d;
}

// Over the lanes that differ in `bit`.
__device__ __forceinline__ void hadamard_lanes(float (&x)[4], int bit, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float other = __shfl_xor_sync(~0u, x[i], bit);
    x[i] = (lane & bit) != 0 ? other - x[i] : x[i] + other;
  }
}

}  // namespace gtq::cuda
