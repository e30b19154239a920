// Queries of a thread block -> integer fragments and coefficients of the mean-key term.
//
//   raw        [kPairs][head_dim_k] f32: the rows as given, zeros past the last pair
//   query      [quant_group][tile][32 lanes] Tile::Query: coded slots of rows as bytes of x = 128 high + low:
//   the
//              transformed query times the codebook step on a 15-bit grid of its row
//   row_scale  [kPairs]: log2 logit = row_scale * (x . levels) * key norm
//   mean       [2 means][tile][mean_group][row][4] float4: conj(q) mu of two rope_blocks (re, im, re, im) times
//              logit_scale
//   big        bit per mean group: some coefficient is above kSmallMean
// A warp does a row; a lane 4 neighbouring slots of every 128. Rounding: 2^-15 of the row's largest element.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/decode_tile.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

inline constexpr float kSmallMean = 0.25f;  // log2 units: mean groups below need one product (decode_mean.cuh)
inline constexpr float kQueryMax = 127.0f * 128.0f;

// A warp starts the copy of a row.
template <int kPairs>
__device__ inline void copy_queries(const DecodeParams& p, const BlockPlace& at, int warp, int lane,
                                    float* raw) {
  const int d = p.layer.head_dim_k;
#pragma unroll 1
  for (int row = warp; row < kPairs; row += p.n_warps) {
    const int pair = at.first_pair + row, query = p.by_group.quotient(pair);
    const int head = at.kv_head * p.group + pair - query * p.group;
    const float* from =
        p.call.q + at.batch * p.call.q_batch_stride + query * p.call.q_row_stride + head * p.call.q_head_stride;
#pragma unroll 1
    for (int i = lane * 4; i < d; i += 128) {
      float* to = raw + row * d + i;
      if (query < p.call.n_rows) {
        copy_16(shared_address(to), from + i);
      } else {
        *reinterpret_cast<float4*>(to) = make_float4(0, 0, 0, 0);
      }
    }
  }
}

__device__ __forceinline__ uint2 split_query(const float (&x)[4], float inverse) {
  uint2 bytes = make_uint2(0, 0);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int whole = __float2int_rn(x[i] * inverse);
    const int high = (whole + 64) >> 7, low = whole - high * 128;
    bytes.x |= static_cast<std::uint32_t>(high & 255) << (8 * i);
    bytes.y |= static_cast<std::uint32_t>(low & 255) << (8 * i);
  }
  return bytes;
}

template <typename Tile, int kPairs>
__device__ inline void transform_queries(const DecodeParams& p, const std::uint16_t* dims, const float* gain,
                                         const float* raw, int warp, int lane, typename Tile::Query* query,
                                         float* row_scale) {
  constexpr int kParts = kMaxGroups * 16 / 128;
  const int d = p.layer.head_dim_k;
#pragma unroll 1
  for (int row = warp; row < kPairs; row += p.n_warps) {
    float x[kParts][4];
    float largest = 0;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int slot = part * 128 + lane * 4;
      if (part * 128 >= d) break;
      if (slot < d) {
        const ushort4 from = *reinterpret_cast<const ushort4*>(dims + slot);
        const float4 by = *reinterpret_cast<const float4*>(gain + slot);
        const float* q = raw + row * d;
        x[part][0] = q[from.x] * by.x, x[part][1] = q[from.y] * by.y;
        x[part][2] = q[from.z] * by.z, x[part][3] = q[from.w] * by.w;
      } else {
        x[part][0] = x[part][1] = x[part][2] = x[part][3] = 0.0f;
      }
      // 16 points without their norm: 4 lanes of 4 slots.
      hadamard_own(x[part]);
      hadamard_lanes(x[part], 1, lane);
      hadamard_lanes(x[part], 2, lane);
#pragma unroll
      for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(x[part][i]));
    }
    largest = largest_of_lanes(~0u, largest);
    const float inverse = largest > 0.0f ? __fdividef(kQueryMax, largest) : 0.0f;
#pragma unroll
    for (int part = 0; part < kParts; ++part) {
      const int slot = part * 128 + lane * 4;
      if (slot >= d) continue;
      Tile::put_query(query + (slot / 16 * (kPairs / Tile::kRows) + row / Tile::kRows) * 32, row % Tile::kRows,
                      slot % 16 / 4, split_query(x[part], inverse));
    }
    if (lane == 0) row_scale[row] = largest * (1 / kQueryMax) * p.logit_scale;
  }
}

template <typename Tile, int kTiles>
__device__ inline void mean_coefficients(const DecodeParams& p, int n_mean_groups, const std::uint16_t* dims,
                                         const float* values, const float* raw, float4* mean,
                                         std::uint32_t* big) {
  constexpr int kLanes = 4 * Tile::kRows;  // of a mean group, two rope_blocks each
  const int d = p.layer.head_dim_k, n_blocks = n_mean_groups * kMeanBlocks, of_set = n_mean_groups * kLanes;
  // From the last thread on: the first warps have the rows of the queries.
#pragma unroll 1
  for (int i = blockDim.x - 1 - threadIdx.x; i < kMeans * kTiles * of_set; i += blockDim.x) {
    int set = 0, rest = i;
    for (; rest >= of_set; rest -= of_set) ++set;
    const int group = rest / kLanes, lane = rest % kLanes;
    const int c = set / kTiles;
    const float* q = raw + (set % kTiles * Tile::kRows + lane / 4) * d;
    float parts[4];
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const int block = group * kMeanBlocks + 2 * (lane % 4) + e;
      const float* mu = values + (c * n_blocks + block) * 2;
      const float q0 = q[dims[2 * block]], q1 = q[dims[2 * block + 1]];
      parts[2 * e] = (q0 * mu[0] + q1 * mu[1]) * p.logit_scale;
      parts[2 * e + 1] = (q0 * mu[1] - q1 * mu[0]) * p.logit_scale;
    }
    mean[set * p.mean_lanes + rest] = make_float4(parts[0], parts[1], parts[2], parts[3]);
    const float largest =
        fmaxf(fmaxf(fabsf(parts[0]), fabsf(parts[1])), fmaxf(fabsf(parts[2]), fabsf(parts[3])));
    if (largest > kSmallMean) atomicOr(big, 1u << group);
  }
}

// Starts the copy of a head's DecodeBlock.
__device__ inline void copy_block(const uint4* from, int n_bytes, std::uint8_t* to) {
  for (int i = threadIdx.x; i < n_bytes / 16; i += blockDim.x) copy_16(shared_address(to + 16 * i), from + i);
}

}  // namespace gtq::cuda
