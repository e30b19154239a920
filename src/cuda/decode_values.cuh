// o += w V of a page: 8-bit products of the weight bytes with value levels (decode_tile.cuh). A unit is 32 key
// slots x 32 dims. Exact in int32.
#pragma once

#include "cuda/codebook.cuh"
#include "cuda/decode_softmax.cuh"

namespace gtq::cuda {

// v: of the lane's keys. The weights are made here: looking up values goes on while they are.
template <int B, int VD, typename Tile>
__device__ __forceinline__ void add_values(const float (&v)[Tile::kKeys], const float* value_norms,
                                           const std::uint8_t* unit, const Luts& luts, int lane,
                                           SoftmaxState<Tile, VD>& state) {
  std::uint32_t weights[2][Tile::kWeights];
  make_weights<Tile>(v, value_norms, lane, state.l, weights);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int part = 0; part < VD / 32; ++part) {
      std::uint32_t w[B], r[8];
      load_words<B>(unit, lane, w);
      expand<B>(w, luts, r);
      Tile::add_unit(state.o + part * (32 / Tile::kDims), weights[half], r);
      unit += 128 * B;
    }
  }
}

}  // namespace gtq::cuda
