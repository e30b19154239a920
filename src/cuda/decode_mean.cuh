// Mean-key term of the logits of a page: sum over centred rope_blocks i of Re(c_i e^(i theta_i t)), with
// c = conj(q) mu (decode_query.cuh).
//
// Regular page, positions start .. start + 63: t = centre + x, centre = start + 31.5, x = -31.5 .. 31.5. A lane
// turns its coefficients to the centre of the page in f32; f16 tensor products with the constant basis
//   a row or column of queries    ( Re c,  Im c)        (cos theta x, -sin theta x), x = 0.5 .. 31.5
//   another                       ( Re c, -Im c)        (mean_basis: high and low halves)
// give the terms of key slots with distance +x and -x at once (Tile::add_mean). Three products keep 22 bits of
// both factors; one is enough for mean groups whose coefficients are small. Slow rope_blocks (is_slow()) hardly
// turn within a page: their sum is one polynomial in x,
//   sum_i Re c_i (1 - (theta_i x)^2 / 2 + (theta_i x)^4 / 24) - Im c_i (theta_i x - (theta_i x)^3 / 6 + ...)
// whose six coefficients a lane sums over its rope_blocks and the row over its lanes. Other pages: the angle of
// every key on its own, f32.
//
// Accuracy: 2^-20 of sum |c_i|, from the sine and cosine; one-product groups 5e-4 * kSmallMean.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/decode_tile.cuh"
#include "cuda/f16.cuh"
#include "cuda/page_layout.h"
#include "cuda/phase.cuh"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

struct MeanTables {
  const float4* coefficients;       // [2 means][tile][mean_lanes]
  const uint4* basis;               // [fast mean_group][4 r][32 lanes]
  const float* slopes;              // [kSlopes][n_slopes]
  const std::uint64_t* half_turns;  // [8 n_groups]
  float2* phases;                   // of this warp: [8 n_groups] or [64 keys]
  std::uint32_t big;                // bit per mean group: three products
  int n_groups, n_fast_groups, mean_lanes, n_slopes;
};

// Of a lane's keys: Tile::bias.
template <typename Tile>
using Bias = float[Tile::kMeanProducts][4];

// Coefficients of a mean group as f16.
struct MeanFragment {
  std::uint32_t re, im;
};

// bias += one mean group at coefficients c (already at the centre of the page).
template <typename Tile, int kTiles>
__device__ __forceinline__ void add_group(const float4 (&c)[kTiles], const uint4* basis, bool big, int lane,
                                          Bias<Tile> (&bias)[kTiles]) {
  MeanFragment high[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    high[tile] = {pack_f16(c[tile].x, c[tile].z), pack_f16(c[tile].y, c[tile].w)};
  }
  const auto add = [&](const MeanFragment(&a)[kTiles], const uint2(&b)[4]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) Tile::add_mean(bias[tile], a[tile].re, a[tile].im, b, lane);
  };
  uint2 b[4];
  if (!big) {
#pragma unroll
    for (int r = 0; r < 4; ++r) b[r] = *reinterpret_cast<const uint2*>(basis + r * 32 + lane);
    add(high, b);
    return;
  }
  MeanFragment low[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float2 re = unpack_f16(high[tile].re), im = unpack_f16(high[tile].im);
    low[tile] = {pack_f16(c[tile].x - re.x, c[tile].z - re.y), pack_f16(c[tile].y - im.x, c[tile].w - im.y)};
  }
  uint2 b_low[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint4 both = basis[r * 32 + lane];
    b[r] = make_uint2(both.x, both.y);
    b_low[r] = make_uint2(both.z, both.w);
  }
  add(high, b_low);
  add(low, b);
  add(high, b);
}

// Phases of all rope_blocks at the centre of a page, shared by the warp.
__device__ __forceinline__ void page_phases(const MeanTables& mean, int start, int lane) {
  const std::int64_t half_positions = 2 * static_cast<std::int64_t>(start) + kCells - 1;
#pragma unroll 1
  for (int i = lane; i < mean.n_groups * kMeanBlocks; i += 32) {
    mean.phases[i] = phase(mean.half_turns[i], half_positions);
  }
  __syncwarp();
}

template <typename Tile, int kTiles>
__device__ __forceinline__ void fill_bias(const float (&offset)[kTiles], Bias<Tile> (&bias)[kTiles]) {
#pragma unroll
  for (int i = 0; i < kTiles * Tile::kKeys; ++i) {
    Tile::bias(bias[i / Tile::kKeys], i % Tile::kKeys) = offset[i / Tile::kKeys];
  }
}

// Coefficients of mean c and a tile.
template <int kTiles>
__device__ __forceinline__ const float4* mean_set(const MeanTables& mean, int c, int tile) {
  return mean.coefficients + (c * kTiles + tile) * mean.mean_lanes;
}

__device__ __forceinline__ float2 turn(float2 c, float2 w) {
  return make_float2(c.x * w.x - c.y * w.y, c.x * w.y + c.y * w.x);
}

// Coefficients of two rope_blocks of a mean group and row Tile::mean_row, at the centre of the page.
template <typename Tile, int kTiles>
__device__ __forceinline__ void turn_group(const MeanTables& mean, int c, int group, int lane,
                                           float4 (&turned)[kTiles]) {
  const float4 w = *reinterpret_cast<const float4*>(mean.phases + group * kMeanBlocks + 2 * (lane % 4));
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float4 a =
        mean_set<kTiles>(mean, c, tile)[(group * Tile::kRows + Tile::mean_row(lane)) * 4 + lane % 4];
    const float2 first = turn({a.x, a.y}, {w.x, w.y}), second = turn({a.z, a.w}, {w.z, w.w});
    turned[tile] = make_float4(first.x, first.y, second.x, second.y);
  }
}

// Of a tile: of x^0, x^1, ...
using Polynomial = float[kSlopes + 1];

// The slow groups of mean c and a tile; each lane of a row has its rope_blocks.
template <int kTiles>
__device__ __forceinline__ void add_slow_groups(const MeanTables& mean, int c, int lane,
                                                Polynomial (&sum)[kTiles], WideTile) {
#pragma unroll 1
  for (int group = mean.n_fast_groups; group < mean.n_groups; ++group) {
    float4 turned[kTiles];
    turn_group<WideTile>(mean, c, group, lane, turned);
    const float* slopes = mean.slopes + group * kMeanBlocks + 2 * (lane % 4);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) sum[tile][0] += turned[tile].x + turned[tile].z;
#pragma unroll
    for (int power = 1; power <= kSlopes; ++power) {
      const float2 slope = *reinterpret_cast<const float2*>(slopes + (power - 1) * mean.n_slopes);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float4 a = turned[tile];
        sum[tile][power] += power % 2 == 0 ? a.x * slope.x + a.z * slope.y : a.y * slope.x + a.w * slope.y;
      }
    }
  }
}

__device__ __forceinline__ void add_slow_groups(const MeanTables& mean, int c, int lane, Polynomial (&sum)[1],
                                                NarrowTile) {
  // [row][8 rope_blocks] of a group: lane 4 g + t has row t, rope_block g.
  const float2* coefficients =
      reinterpret_cast<const float2*>(mean_set<1>(mean, c, 0)) + lane % 4 * kMeanBlocks;
#pragma unroll 1
  for (int block = mean.n_fast_groups * kMeanBlocks + lane / 4; block < mean.n_groups * kMeanBlocks;
       block += kMeanBlocks) {
    const float2 a = turn(coefficients[block / kMeanBlocks * (4 * kMeanBlocks) + lane / 4], mean.phases[block]);
    sum[0][0] += a.x;
#pragma unroll
    for (int power = 1; power <= kSlopes; ++power) {
      sum[0][power] += (power % 2 == 0 ? a.x : a.y) * mean.slopes[(power - 1) * mean.n_slopes + block];
    }
  }
}

template <typename Tile, int kTiles>
__device__ __forceinline__ void sum_slow_groups(const MeanTables& mean, int c, int lane,
                                                Polynomial (&sum)[kTiles]) {
#pragma unroll
  for (int i = 0; i < kTiles * (kSlopes + 1); ++i) sum[i / (kSlopes + 1)][i % (kSlopes + 1)] = 0.0f;
  add_slow_groups(mean, c, lane, sum, Tile{});
#pragma unroll
  for (int i = 0; i < kTiles * (kSlopes + 1); ++i) {
    float& x = sum[i / (kSlopes + 1)][i % (kSlopes + 1)];
    x = sum_of_row<Tile>(x);
  }
}

// bias = the polynomial at the lane's keys.
template <typename Tile>
__device__ __forceinline__ void evaluate(const Polynomial& a, int lane, Bias<Tile>& bias) {
  static_assert(kSlopes == 5);
#pragma unroll
  for (int e = 0; e < Tile::kKeys / 8; ++e) {
    const float first = static_cast<float>(Tile::column(lane, e)) + 0.5f;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float x = first + static_cast<float>(8 * r), y = x * x;
      const float even = fmaf(fmaf(a[4], y, a[2]), y, a[0]), odd = fmaf(fmaf(a[5], y, a[3]), y, a[1]);
      Tile::bias(bias, 8 * e + r) = fmaf(odd, x, even);
      Tile::bias(bias, 8 * e + r + 4) = fmaf(-odd, x, even);
    }
  }
}

// bias: offset + the term.
template <typename Tile, int kTiles>
__device__ __forceinline__ void regular_bias(const MeanTables& mean, int c, const float (&offset)[kTiles],
                                             int lane, Bias<Tile> (&bias)[kTiles]) {
  if (mean.n_fast_groups < mean.n_groups) {
    Polynomial sum[kTiles];
    sum_slow_groups<Tile>(mean, c, lane, sum);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      sum[tile][0] += offset[tile];
      evaluate<Tile>(sum[tile], lane, bias[tile]);
    }
  } else {
    fill_bias<Tile>(offset, bias);
  }
#pragma unroll 1
  for (int group = 0; group < mean.n_fast_groups; ++group) {
    float4 turned[kTiles];
    turn_group<Tile>(mean, c, group, lane, turned);
    add_group<Tile>(turned, mean.basis + group * 128, (mean.big >> group & 1) != 0, lane, bias);
  }
}

// Pages whose positions jump. positions: of the 64 cells.
template <typename Tile, int kTiles>
__device__ inline void irregular_bias(const MeanTables& mean, int c, const std::int32_t* positions,
                                      const float (&offset)[kTiles], int lane, Bias<Tile> (&bias)[kTiles]) {
  fill_bias<Tile>(offset, bias);
#pragma unroll 1
  for (int block = 0; block < mean.n_groups * kMeanBlocks; ++block) {
    __syncwarp();
    for (int slot = lane; slot < kCells; slot += 32) {
      mean.phases[slot] =
          phase(mean.half_turns[block], 2 * static_cast<std::int64_t>(positions[cell_of_slot(slot)]));
    }
    __syncwarp();
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      const int pair =
          (block / kMeanBlocks * Tile::kRows + Tile::row(lane)) * kMeanBlocks + block % kMeanBlocks;
      const float2 a = reinterpret_cast<const float2*>(mean_set<kTiles>(mean, c, tile))[pair];
#pragma unroll
      for (int i = 0; i < Tile::kKeys; ++i) {
        const float2 w = mean.phases[8 * (i % 8) + Tile::column(lane, i / 8)];
        Tile::bias(bias[tile], i) += a.x * w.x - a.y * w.y;
      }
    }
  }
  __syncwarp();
}

}  // namespace gtq::cuda
