// Online softmax of a warp in log2 units, with fixed-point weights for the 8-bit product with the values.
//
//   v_j = u_j - m + 13                 u_j: log2 logit, m: reference of the row
//   s_j = v_j + log2(value norm_j)     size of a key's contribution
//   w_j = 2^(s_j)                      rounded to 16 bits; s_j <= 16 always
//   l   = sum of 2^(v_j)               f32
// m is a whole number and only moves when some s_j exceeds 16, so that the int32 sums of values shift by whole
// bits. Values of small norm (attention sinks have them) thus do not cost the others precision. The caller
// makes v_j with the current m (offset = 13 - m, added where it costs nothing); the rare move corrects them.
// State per lane and tile: its row; all lanes of a row agree on m, each sums l and o over its own keys or dims.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/decode_terms.cuh"
#include "cuda/decode_tile.cuh"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

inline constexpr float kWeightBits = 12.9993f;
inline constexpr float kMostBits = 15.9993f;  // w < 2^16
inline constexpr float kExcluded = -1e35f, kNoReference = -1e30f;
inline constexpr int kCarryPages = 256;  // full weights and levels of so many pages add less than 2^29 to a sum

// kDims: of the values, those of the warp.
template <typename Tile, int kDims>
struct SoftmaxState {
  float offset = 0, l = 0;
  float most = kNoReference;           // s_j above this move the reference; kMostBits once there is one
  int until_carried = kCarryPages;     // pages; -1: high sums have become large, the reference is to rise
  int o[kDims / Tile::kDims][4] = {};  // of high and low bytes of the weights

  __device__ __forceinline__ float reference() const {
    return most == kNoReference ? kNoReference : kWeightBits - offset;
  }
};

// Whether kCarryPages more would not surely fit.
template <typename Tile, int kDims>
__device__ __forceinline__ bool is_full(const SoftmaxState<Tile, kDims>& state) {
  int largest = 0;
#pragma unroll
  for (int i = 0; i < 2 * kDims / Tile::kDims; ++i)
    largest = max(largest, abs(state.o[i / 2][Tile::high(i % 2)]));
  return largest > 1 << 30;
}

// Raises the reference by `by` whole bits, at least 0; low sums are below 256 then, the rest is in the high
// ones.
template <typename Tile, int kDims>
__device__ __forceinline__ void raise(SoftmaxState<Tile, kDims>& state, float by) {
  state.offset -= by;
  state.l *= exp2_fast(-by);
  const int shift = static_cast<int>(fminf(by, 60.0f));
#pragma unroll
  for (auto& o : state.o) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      int &high = o[Tile::high(e)], &low = o[Tile::low(e)];
      const long long sum = (static_cast<long long>(high) * 256 + low) >> shift;
      high = static_cast<int>(sum >> 8);
      low = static_cast<int>(sum & 255);
    }
  }
}

// Largest s_j of the lane's keys.
template <typename Tile>
__device__ __forceinline__ float largest_size(const float (&v)[Tile::kKeys], const float* log_norms, int lane) {
  float largest = kExcluded;
#pragma unroll
  for (int i = 0; i < Tile::kKeys / 4; ++i) {
    const float4 log_norm = load_four(log_norms, Tile::column(lane, i / 2), i % 2);
    largest = fmaxf(largest, fmaxf(v[4 * i] + log_norm.x, v[4 * i + 1] + log_norm.y));
    largest = fmaxf(largest, fmaxf(v[4 * i + 2] + log_norm.z, v[4 * i + 3] + log_norm.w));
  }
  return largest;
}

// largest: of the row's s_j. Returns by how much the reference rose (fell, for the first one).
template <typename Tile, int kDims>
__device__ __forceinline__ float move_reference(SoftmaxState<Tile, kDims>& state, float largest, bool halve) {
  float by = largest > state.most ? ceilf(largest - kWeightBits) : 0.0f;
  if (state.most == kNoReference) {
    state.offset -= by;
    if (largest > kNoReference) state.most = kMostBits;
  } else {
    if (halve) by = fmaxf(by, 1.0f);
    raise(state, by);
  }
  return by;
}

// Makes room for a page: no s_j above kMostBits, sums that do not overflow. v: of the lane's keys.
template <typename Tile, int kDims>
__device__ __forceinline__ void make_room(float (&v)[Tile::kKeys], const float* log_norms, int lane,
                                          SoftmaxState<Tile, kDims>& state) {
  const float largest = largest_size<Tile>(v, log_norms, lane);
  const bool carries = state.until_carried <= 0, halves = state.until_carried < 0;
  --state.until_carried;
  if (!__any_sync(~0u, largest > state.most) && !carries) return;
  const float by = move_reference(state, largest_of_row<Tile>(largest), halves);
#pragma unroll
  for (float& x : v) x -= by;
  if (carries) state.until_carried = __any_sync(~0u, is_full(state)) ? -1 : kCarryPages - 1;
}

// weights: fragments [half of the keys].
template <typename Tile>
__device__ __forceinline__ void make_weights(const float (&v)[Tile::kKeys], const float* value_norms, int lane,
                                             float& l, std::uint32_t (&weights)[2][Tile::kWeights]) {
  std::uint32_t w[Tile::kKeys];
#pragma unroll
  for (int i = 0; i < Tile::kKeys / 4; ++i) {
    const float4 norm = load_four(value_norms, Tile::column(lane, i / 2), i % 2);
    const float norms[4] = {norm.x, norm.y, norm.z, norm.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float weight = exp2_fast(v[4 * i + j]);
      l += weight;
      w[4 * i + j] = __float_as_uint(fmaf(weight, norms[j], 8388608.0f));  // low 16 bits: rounded
    }
  }
  Tile::pack_weights(w, weights);
}

}  // namespace gtq::cuda
