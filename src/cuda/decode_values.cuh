// o += w V of a page: 8-bit products of the weight bytes (rows 0..7 high, 8..15 low) with value levels. A unit
// is 32 key slots x 32 dims: four tiles of 8 dims. Exact in int32.
#pragma once

#include "cuda/codebook.cuh"
#include "cuda/decode_softmax.cuh"

namespace gtq::cuda {

template <int VD, int B>
__device__ __forceinline__ void add_values_of(const std::uint8_t* unit, const Luts& luts, int lane,
                                              const std::uint32_t (&weights)[2][4], int (&o)[VD / 8][4]) {
  // Rolled: a warp that has one page spends much of its time fetching code.
  std::uint32_t a[4] = {weights[0][0], weights[0][1], weights[0][2], weights[0][3]};
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int part = 0; part < VD / 32; ++part) {
      std::uint32_t w[B], r[8];
      load_words<B>(unit + part * 128 * B, lane, w);
      expand<B>(w, luts, r);
#pragma unroll
      for (int z = 0; z < 4; ++z) {
        mma_u8s8(o[part * 4 + z], a[0], a[1], a[2], a[3], r[2 * z], r[2 * z + 1]);
      }
    }
    unit += VD / 32 * 128 * B;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] = weights[1][i];
  }
}

template <int VD>
__device__ __forceinline__ void add_values(int width, const std::uint8_t* unit, const Luts& luts, int lane,
                                           const std::uint32_t (&weights)[2][4], int (&o)[VD / 8][4]) {
  switch (width) {
    case 1:
      return add_values_of<VD, 1>(unit, luts, lane, weights, o);
    case 2:
      return add_values_of<VD, 2>(unit, luts, lane, weights, o);
    case 3:
      return add_values_of<VD, 3>(unit, luts, lane, weights, o);
    case 4:
      return add_values_of<VD, 4>(unit, luts, lane, weights, o);
    case 5:
      return add_values_of<VD, 5>(unit, luts, lane, weights, o);
    default:
      return add_values_of<VD, 6>(unit, luts, lane, weights, o);
  }
}

}  // namespace gtq::cuda
