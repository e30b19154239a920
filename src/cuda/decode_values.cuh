// o += w V of a page: 8-bit products of the weight bytes (rows 0..7 high, 8..15 low) with value levels. A unit
// is 32 key slots x 32 dims: four products of 8 dims. Exact in int32.
#pragma once

#include "cuda/codebook.cuh"
#include "cuda/decode_softmax.cuh"

namespace gtq::cuda {

// v: of the lane's 16 keys. The weights are made here: looking up values goes on while they are.
template <int B, int VD>
__device__ __forceinline__ void add_values(const float (&v)[16], const float* value_norms,
                                           const std::uint8_t* unit, const Luts& luts, int lane,
                                           SoftmaxState<VD>& state) {
  std::uint32_t weights[2][4];
  make_weights(v, value_norms, lane, state.l, weights);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::uint32_t(&a)[4] = weights[half];
#pragma unroll
    for (int part = 0; part < VD / 32; ++part) {
      std::uint32_t w[B], r[8];
      load_words<B>(unit, lane, w);
      expand<B>(w, luts, r);
#pragma unroll
      for (int z = 0; z < 4; ++z) {
        mma_u8s8(state.o[part * 4 + z], a[0], a[1], a[2], a[3], r[2 * z], r[2 * z + 1]);
      }
      unit += 128 * B;
    }
  }
}

}  // namespace gtq::cuda
