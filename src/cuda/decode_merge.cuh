// Sums of the warps of a thread block -> output rows, over all splits of a sequence.
//
// 1. reduce_block: warps' m, l, o merged in warp order -> shared memory [8 rows][VD] and (m, l) per row.
// 2. untransform: inverse rotation of the values (linear, so before the merge of splits) and their scale.
// 3. one split: divide and write. More: publish the partial sums as {value, tag} pairs, then merge a slice of
// the
//    row elements of all splits, in a fixed tree. Tags are launch numbers (WorkspaceHeader), so nothing is
//    reset between launches; all thread blocks are resident (cooperative launch), so waiting ends.
// Deterministic: orders depend on the number of warps and splits only.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/decode_softmax.cuh"

namespace gtq::cuda {

struct BlockPlace {
  int split, kv_head, tile, batch;
  int n_pairs;  // (row, head) pairs of the tile in use
};

template <int VD>
inline constexpr int kReduceStride = VD + 8;

template <int VD>
__device__ inline void write_warp_sums(const SoftmaxState<VD>& state, int warp, int lane, float* sums,
                                       float2* ml) {
  float l = state.l;
  l += __shfl_xor_sync(~0u, l, 1);
  l += __shfl_xor_sync(~0u, l, 2);
  const int g = lane / 4, t = lane % 4;
  if (t == 0) ml[warp * kRows + g] = make_float2(state.reference(), l);
  float* row = sums + (warp * kRows + g) * kReduceStride<VD> + 2 * t;
#pragma unroll
  for (int i = 0; i < VD / 8; ++i) {
    const int* o = state.o[i];
    *reinterpret_cast<float2*>(row + 8 * i) =
        make_float2(static_cast<float>(o[0]) * 256.0f + static_cast<float>(o[2]),
                    static_cast<float>(o[1]) * 256.0f + static_cast<float>(o[3]));
  }
}

// Sums of warp 0 receive those of the block; row_ml[row] = (m, l).
template <int VD>
__device__ inline void reduce_block(int n_warps, float* sums, const float2* ml, float2* row_ml) {
#pragma unroll 1
  for (int i = threadIdx.x; i < kRows * VD / 4; i += blockDim.x) {
    const int row = i / (VD / 4), col = i % (VD / 4) * 4;
    float m = kNoReference, l = 0;
#pragma unroll 2
    for (int w = 0; w < n_warps; ++w) m = fmaxf(m, ml[w * kRows + row].x);
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 2
    for (int w = 0; w < n_warps; ++w) {
      const float2 other = ml[w * kRows + row];
      const float factor = exp2_fast(other.x - m);
      const float4 v = *reinterpret_cast<const float4*>(sums + (w * kRows + row) * kReduceStride<VD> + col);
      l += factor * other.y;
      sum.x += factor * v.x;
      sum.y += factor * v.y;
      sum.z += factor * v.z;
      sum.w += factor * v.w;
    }
    *reinterpret_cast<float4*>(sums + row * kReduceStride<VD> + col) = sum;
    if (col == 0) row_ml[row] = make_float2(m, l);
  }
}

// One row by a warp: dim 32 e + lane.
template <int VD>
__device__ inline void untransform(const float* signs, float gain, float* row, int lane) {
  constexpr int kParts = VD / 32, kPoints = VD & -VD;
  const float norm = gain * rsqrtf(static_cast<float>(kPoints));
  float x[kParts];
#pragma unroll
  for (int e = 0; e < kParts; ++e) x[e] = row[32 * e + lane];
#pragma unroll
  for (int bit = 1; bit < 32; bit *= 2) {
#pragma unroll
    for (int e = 0; e < kParts; ++e) {
      const float other = __shfl_xor_sync(~0u, x[e], bit);
      x[e] = (lane & bit) != 0 ? other - x[e] : x[e] + other;
    }
  }
#pragma unroll
  for (int bit = 1; bit < kPoints / 32; bit *= 2) {
#pragma unroll
    for (int e = 0; e < kParts; ++e) {
      if ((e & bit) != 0) continue;
      const float a = x[e], b = x[e + bit];
      x[e] = a + b;
      x[e + bit] = a - b;
    }
  }
#pragma unroll
  for (int e = 0; e < kParts; ++e) row[32 * e + lane] = x[e] * norm * signs[32 * e + lane];
}

// 1 / sum of weights of the row, its sink included; 0 for a row that attends nothing.
__device__ inline float inverse_weight(const DecodeParams& p, const BlockPlace& at, int row, float m, float l) {
  if (p.sinks != nullptr) {
    const int head = at.kv_head * p.group + (at.tile * kRows + row) % p.group;
    l += exp2_fast(p.sinks[head] * 1.44269504f + kWeightBits - m);
  }
  return l > 0.0f ? 1.0f / l : 0.0f;
}

__device__ inline float* out_row(const DecodeParams& p, const BlockPlace& at, int row) {
  const int pair = at.tile * kRows + row;
  return p.out + at.batch * p.out_batch_stride + (pair / p.group) * p.out_row_stride +
         (at.kv_head * p.group + pair % p.group) * p.out_head_stride;
}

template <int VD>
__device__ inline void write_rows(const DecodeParams& p, const BlockPlace& at, const float* sums,
                                  const float2* row_ml) {
#pragma unroll 1
  for (int i = threadIdx.x; i < at.n_pairs * VD / 4; i += blockDim.x) {
    const int row = i / (VD / 4), col = i % (VD / 4) * 4;
    const float inverse = inverse_weight(p, at, row, row_ml[row].x, row_ml[row].y);
    const float4 v = *reinterpret_cast<const float4*>(sums + row * kReduceStride<VD> + col);
    *reinterpret_cast<float4*>(out_row(p, at, row) + col) =
        make_float4(v.x * inverse, v.y * inverse, v.z * inverse, v.w * inverse);
  }
}

// Partial sums of one split: [8 rows][VD + 2] {value, tag} pairs, m and l last.
template <int VD>
__device__ inline uint4* partial_of(const DecodeParams& p, const BlockPlace& at, int split) {
  const std::size_t unit =
      (static_cast<std::size_t>(at.batch) * p.layer.n_kv_heads + at.kv_head) * p.n_tiles + at.tile;
  return reinterpret_cast<uint4*>(p.partials + (unit * p.n_splits + split) * kRows * (VD + 2));
}

__device__ __forceinline__ uint4 tagged(float a, float b, std::uint32_t tag) {
  return make_uint4(__float_as_uint(a), tag, __float_as_uint(b), tag);
}

template <int VD>
__device__ inline void publish(const DecodeParams& p, const BlockPlace& at, const float* sums,
                               const float2* row_ml, std::uint32_t tag) {
  uint4* to = partial_of<VD>(p, at, at.split);
#pragma unroll 1
  for (int i = threadIdx.x; i < at.n_pairs * (VD / 2 + 1); i += blockDim.x) {
    const int row = i / (VD / 2 + 1), pair = i % (VD / 2 + 1);
    const float2 v = pair == VD / 2
                         ? row_ml[row]
                         : *reinterpret_cast<const float2*>(sums + row * kReduceStride<VD> + 2 * pair);
    __stcg(to + i, tagged(v.x, v.y, tag));
  }
}

__device__ __forceinline__ float2 wait_for(const uint4* from, std::uint32_t tag) {
  uint4 v;
  do {
    v = load_volatile(from);
  } while (v.y != tag || v.w != tag);
  return make_float2(__uint_as_float(v.x), __uint_as_float(v.z));
}

// 2^n lanes of a warp, the first power of two that is no less than the splits (at most 32), merge two dims of a
// row.
template <int VD>
__device__ inline void merge_splits(const DecodeParams& p, const BlockPlace& at, int warp, int lane,
                                    std::uint32_t tag) {
  const int n = at.n_pairs * (VD / 2), n_lanes = p.n_splits > 16 ? 32 : 1 << (32 - __clz(p.n_splits - 1));
  const int begin = n * at.split / p.n_splits, end = n * (at.split + 1) / p.n_splits;
  const int n_together = 32 / n_lanes, mine = lane / n_lanes;
#pragma unroll 1
  for (int first = begin + warp * n_together; first < end; first += p.n_warps * n_together) {
    const int i = min(first + mine, end - 1);  // lanes past the end repeat the last
    const int row = i / (VD / 2), pair = i % (VD / 2);
    float m = kNoReference, l = 0, x = 0, y = 0;
#pragma unroll 1
    for (int k = lane % n_lanes; k < p.n_splits; k += n_lanes) {
      const uint4* from = partial_of<VD>(p, at, k) + row * (VD / 2 + 1);
      const float2 v = wait_for(from + pair, tag), ml = wait_for(from + VD / 2, tag);
      const float top = fmaxf(m, ml.x), old = exp2_fast(m - top), other = exp2_fast(ml.x - top);
      m = top;
      l = l * old + ml.y * other;
      x = x * old + v.x * other;
      y = y * old + v.y * other;
    }
    __syncwarp();
    float top = m;
    for (int bit = n_lanes / 2; bit > 0; bit /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, bit));
    const float factor = exp2_fast(m - top);
    l *= factor;
    x *= factor;
    y *= factor;
    for (int bit = n_lanes / 2; bit > 0; bit /= 2) {
      l += __shfl_xor_sync(~0u, l, bit);
      x += __shfl_xor_sync(~0u, x, bit);
      y += __shfl_xor_sync(~0u, y, bit);
    }
    if (lane % n_lanes == 0) {
      const float inverse = inverse_weight(p, at, row, top, l);
      *reinterpret_cast<float2*>(out_row(p, at, row) + 2 * pair) = make_float2(x * inverse, y * inverse);
    }
  }
}

// The last thread block of the launch opens the next launch's tag.
__device__ inline void finish_launch(const DecodeParams& p, std::uint32_t tag) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  const std::uint32_t n_blocks = gridDim.x * gridDim.y * gridDim.z;
  if (atomicAdd(&p.header->n_finished, 1u) == n_blocks - 1) {
    p.header->n_finished = 0;
    p.header->epoch = tag;
  }
}

}  // namespace gtq::cuda
