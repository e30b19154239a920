// Sums of the warps of a thread block -> output rows, over all splits of a sequence.
//
// 1. write_team_sums: the sums of every team that had pages, on one reference per row -> shared memory.
// 2. A warp takes a row (RowSums): adds the teams in order, turns the values back (linear, so before the merge
//    of splits).
// 3. One split: divides and writes. More: publishes the partial sums as {value, tag} pairs, then merges a slice
//    of the row elements of all splits, in a fixed tree. Tags are launch numbers (WorkspaceHeader), so nothing
//    is reset between launches; all thread blocks are resident (cooperative launch), so waiting ends.
// Deterministic: orders depend on the number of teams and splits only.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/decode_softmax.cuh"
#include "cuda/decode_team.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/logits.cuh"

namespace gtq::cuda {

// Floats of a row of sums: [head_dim_v] values, sum of weights, reference.
template <int VD>
inline constexpr int kReduceStride = VD + 8;

// What a warp knows of a row: reference, the team's, and sum of weights of its own pages.
template <int VD, int kPairs>
using WarpRows = float2[most_warps(VD, kPairs)][kPairs];

// sums: [n_active teams][rows][kReduceStride] in the ring, which all warps have left after the first barrier.
template <int VD, int kPairs>
__device__ inline void write_team_sums(const Team<VD, kPairs>& team, const TeamState<VD, kPairs>& state,
                                       int n_active, int lane, float* sums, WarpRows<VD, kPairs>& rows) {
  using Tile = typename Span<kPairs>::Tile;
  constexpr int kWarps = Team<VD, kPairs>::kWarps, kDims = Team<VD, kPairs>::kDims;
  const bool first_of_row = (lane & (Tile::kPastRow - Tile::kFirstOfRow)) == 0;
#pragma unroll
  for (int tile = 0; tile < Span<kPairs>::kTiles; ++tile) {
    const float l = sum_of_row<Tile>(state[tile].l);
    if (first_of_row) {
      rows[team.index * kWarps + team.part][tile * Tile::kRows + Tile::row(lane)] =
          make_float2(state[tile].reference(), l);
    }
  }
  __syncthreads();
#pragma unroll
  for (int tile = 0; tile < Span<kPairs>::kTiles; ++tile) {
    if (team.index >= n_active) break;
    const int in_span = tile * Tile::kRows + Tile::row(lane);
    float top = kNoReference, l = 0;
#pragma unroll
    for (int k = 0; k < most_warps(VD, kPairs) / kWarps; ++k) {
      if (k < n_active) top = fmaxf(top, rows[k * kWarps][in_span].x);
    }
#pragma unroll
    for (int k = 0; k < kWarps; ++k) l += rows[team.index * kWarps + k][in_span].y;
    const float low = exp2_fast(state[tile].reference() - top), high = 256.0f * low;
    float* row = sums + (team.index * kPairs + in_span) * kReduceStride<VD>;
#pragma unroll
    for (int i = 0; i < 2 * kDims / Tile::kDims; ++i) {
      const int(&o)[4] = state[tile].o[i / 2];
      row[team.part * kDims + Tile::kDims * (i / 2) + Tile::dim(lane, i % 2)] =
          static_cast<float>(o[Tile::high(i % 2)]) * high + static_cast<float>(o[Tile::low(i % 2)]) * low;
    }
    if (first_of_row && team.part == 0) *reinterpret_cast<float2*>(row + VD) = make_float2(l * low, top);
  }
  __syncthreads();
}

// A row of the block's sums in a warp: dims 128 e + 4 lane + j.
template <int VD>
struct RowSums {
  static constexpr int kParts = (VD + 127) / 128;
  float x[kParts][4];
  float l, m;  // sum of weights, reference

  __device__ static bool holds(int part, int lane) { return part * 128 + lane * 4 < VD; }
};

template <int VD, int kPairs>
__device__ __forceinline__ RowSums<VD> reduce_row(const float* sums, int n_active, int row, int lane) {
  RowSums<VD> r{{}, 0, kNoReference};
#pragma unroll 4
  for (int w = 0; w < n_active; ++w) {
    const float* from = sums + (w * kPairs + row) * kReduceStride<VD>;
#pragma unroll
    for (int e = 0; e < r.kParts; ++e) {
      if (!r.holds(e, lane)) continue;
      const float4 v = *reinterpret_cast<const float4*>(from + 128 * e + 4 * lane);
      r.x[e][0] += v.x;
      r.x[e][1] += v.y;
      r.x[e][2] += v.z;
      r.x[e][3] += v.w;
    }
    const float2 lm = *reinterpret_cast<const float2*>(from + VD);
    r.l += lm.x;
    r.m = lm.y;
  }
  return r;
}

// Inverse rotation of the values, and their scale.
template <int VD>
__device__ __forceinline__ void untransform(const float* signs, float gain, int lane, RowSums<VD>& r) {
  constexpr int kPoints = VD & -VD;
#pragma unroll
  for (int e = 0; e < r.kParts; ++e) {
    hadamard_own(r.x[e]);
#pragma unroll
    for (int bit = 1; bit < 32 && 4 * bit < kPoints; bit *= 2) hadamard_lanes(r.x[e], bit, lane);
  }
  if constexpr (kPoints == 256) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float a = r.x[0][j], b = r.x[1][j];
      r.x[0][j] = a + b;
      r.x[1][j] = a - b;
    }
  }
  const float norm = gain * rsqrtf(static_cast<float>(kPoints));
#pragma unroll
  for (int e = 0; e < r.kParts; ++e) {
    if (!r.holds(e, lane)) continue;
    const float4 sign = *reinterpret_cast<const float4*>(signs + 128 * e + 4 * lane);
    r.x[e][0] *= norm * sign.x;
    r.x[e][1] *= norm * sign.y;
    r.x[e][2] *= norm * sign.z;
    r.x[e][3] *= norm * sign.w;
  }
}

// 1 / sum of weights of the row, its sink included; 0 for a row that attends nothing.
__device__ inline float inverse_weight(const DecodeParams& p, const BlockPlace& at, int row, float m, float l) {
  if (p.call.sinks != nullptr) {
    const int head = at.kv_head * p.group + (at.first_pair + row) % p.group;
    l += exp2_fast(p.call.sinks[head] * kLog2E + kWeightBits - m);
  }
  return l > 0.0f ? 1.0f / l : 0.0f;
}

__device__ inline float* out_row(const DecodeParams& p, const BlockPlace& at, int row) {
  const int pair = at.first_pair + row, query = p.by_group.quotient(pair);
  return p.call.out + at.batch * p.call.out_batch_stride + query * p.call.out_row_stride +
         (at.kv_head * p.group + pair - query * p.group) * p.call.out_head_stride;
}

template <int VD>
__device__ __forceinline__ void write_row(const DecodeParams& p, const BlockPlace& at, int row, int lane,
                                          const RowSums<VD>& r) {
  const float inverse = inverse_weight(p, at, row, r.m, r.l);
  float* to = out_row(p, at, row);
#pragma unroll
  for (int e = 0; e < r.kParts; ++e) {
    if (!r.holds(e, lane)) continue;
    *reinterpret_cast<float4*>(to + 128 * e + 4 * lane) =
        make_float4(r.x[e][0] * inverse, r.x[e][1] * inverse, r.x[e][2] * inverse, r.x[e][3] * inverse);
  }
}

// Partial sums of one split: [span_pairs][VD + 2] {value, tag} pairs, m and l last.
template <int VD>
__device__ inline uint4* partial_of(const DecodeParams& p, const BlockPlace& at, int split) {
  const std::size_t unit =
      (static_cast<std::size_t>(at.batch) * p.layer.n_kv_heads + at.kv_head) * p.n_spans + at.span;
  return reinterpret_cast<uint4*>(p.partials + (unit * p.n_splits + split) * p.span_pairs * (VD + 2));
}

__device__ __forceinline__ uint4 tagged(float a, float b, std::uint32_t tag) {
  return make_uint4(__float_as_uint(a), tag, __float_as_uint(b), tag);
}

template <int VD>
__device__ __forceinline__ void publish_row(const DecodeParams& p, const BlockPlace& at, int row, int lane,
                                            const RowSums<VD>& r, std::uint32_t tag) {
  uint4* to = partial_of<VD>(p, at, at.split) + row * (VD / 2 + 1);
#pragma unroll
  for (int e = 0; e < r.kParts; ++e) {
    if (!r.holds(e, lane)) continue;
    __stcg(to + 64 * e + 2 * lane, tagged(r.x[e][0], r.x[e][1], tag));
    __stcg(to + 64 * e + 2 * lane + 1, tagged(r.x[e][2], r.x[e][3], tag));
  }
  if (lane == 0) __stcg(to + VD / 2, tagged(r.m, r.l, tag));
}

// Two dims of a row over some of the splits.
struct PartialSum {
  float m = kNoReference, l = 0, x = 0, y = 0;

  __device__ __forceinline__ void raise(float top) {
    const float factor = exp2_fast(m - top);
    m = top;
    l *= factor;
    x *= factor;
    y *= factor;
  }
};

// The splits lane, lane + n_lanes, ... of dims `pair` of a row, waiting for those that are not there yet.
template <int VD>
__device__ __forceinline__ PartialSum gather_splits(const DecodeParams& p, const BlockPlace& at, int row,
                                                    int pair, int lane, int n_lanes, std::uint32_t tag) {
  constexpr int kAtOnce = 3;  // loads in flight: 96 splits
  PartialSum sum;
#pragma unroll 1
  for (int first = lane; first < p.n_splits; first += kAtOnce * n_lanes) {
    uint4 v[kAtOnce], ml[kAtOnce];
    bool complete;
    do {
      complete = true;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int split = first + k * n_lanes;
        v[k] = ml[k] = make_uint4(0, tag, 0, tag);
        if (split >= p.n_splits) continue;
        const uint4* from = partial_of<VD>(p, at, split) + row * (VD / 2 + 1);
        v[k] = load_volatile(from + pair);
        ml[k] = load_volatile(from + VD / 2);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        complete &= v[k].y == tag && v[k].w == tag && ml[k].y == tag && ml[k].w == tag;
      }
    } while (!complete);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (first + k * n_lanes >= p.n_splits) continue;
      const float m = __uint_as_float(ml[k].x);
      sum.raise(fmaxf(sum.m, m));
      const float factor = exp2_fast(m - sum.m);
      sum.l += factor * __uint_as_float(ml[k].z);
      sum.x += factor * __uint_as_float(v[k].x);
      sum.y += factor * __uint_as_float(v[k].z);
    }
  }
  return sum;
}

// 2^n lanes of a warp, the first power of two that is no less than the splits (at most 32), merge two dims of a
// row.
template <int VD>
__device__ inline void merge_splits(const DecodeParams& p, const BlockPlace& at, int warp, int lane,
                                    std::uint32_t tag) {
  const int n = at.n_pairs * (VD / 2), n_lanes = p.n_splits > 16 ? 32 : 1 << (32 - __clz(p.n_splits - 1));
  const int begin = p.by_splits.quotient(n * at.split), end = p.by_splits.quotient(n * (at.split + 1));
  const int n_together = 32 / n_lanes, mine = lane / n_lanes;
  const std::uint32_t together = ~0u >> (32 - n_lanes) << (mine * n_lanes);  // lanes of the same dims
#pragma unroll 1
  for (int first = begin + warp * n_together; first < end; first += p.n_warps * n_together) {
    const int i = min(first + mine, end - 1);  // lanes past the end repeat the last
    const int row = i / (VD / 2), pair = i % (VD / 2);
    PartialSum sum = gather_splits<VD>(p, at, row, pair, lane % n_lanes, n_lanes, tag);
    __syncwarp();
    sum.raise(largest_of_lanes(together, sum.m));
    for (int bit = n_lanes / 2; bit > 0; bit /= 2) {
      sum.l += __shfl_xor_sync(~0u, sum.l, bit);
      sum.x += __shfl_xor_sync(~0u, sum.x, bit);
      sum.y += __shfl_xor_sync(~0u, sum.y, bit);
    }
    if (lane % n_lanes == 0) {
      const float inverse = inverse_weight(p, at, row, sum.m, sum.l);
      *reinterpret_cast<float2*>(out_row(p, at, row) + 2 * pair) =
          make_float2(sum.x * inverse, sum.y * inverse);
    }
  }
}

// The last thread block of the launch to read the epoch opens the next launch's tag.
__device__ __forceinline__ void close_epoch(const DecodeParams& p, std::uint32_t tag) {
  const std::uint32_t n_blocks = gridDim.x * gridDim.y * gridDim.z;
  if (atomicAdd(&p.header->n_finished, 1u) == n_blocks - 1) {
    p.header->n_finished = 0;
    p.header->epoch = tag;
  }
}

}  // namespace gtq::cuda
