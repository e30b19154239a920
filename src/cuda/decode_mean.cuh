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
// of degree 5, or 2 where all are very slow, whose coefficients a lane sums over its rope_blocks and the row
// over its lanes. Other pages: the angle of every key on its own, f32.
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
  const float4* coefficients;  // [2 means][tile][mean_lanes]
  const uint4* basis;          // [fast mean_group][4 r][32 lanes]
  const MeanBlock* blocks;     // [8 n_groups]
  float2* phases;              // of this warp: [8 n_fast_groups] or [64 keys]
  std::uint32_t big;           // bit per mean group: three products
  int n_groups, n_fast_groups, n_slopes, mean_lanes;
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

// Centre of a page.
__device__ __forceinline__ std::uint32_t half_centre(int start) {
  return 2 * static_cast<std::uint32_t>(start) + kCells - 1;
}

// Phases of the fast groups at the centre of a page, shared by the warp.
__device__ __forceinline__ void page_phases(const MeanTables& mean, int start, int lane) {
#pragma unroll 1
  for (int i = lane; i < mean.n_fast_groups * kMeanBlocks; i += 32) {
    mean.phases[i] = phase(*reinterpret_cast<const uint2*>(&mean.blocks[i].half_turns), half_centre(start));
  }
  __syncwarp();
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
template <int kDegree>
using Polynomial = float[kDegree + 1];

// The slow groups of mean c.
template <typename Tile, int kTiles, int kDegree>
__device__ __forceinline__ void sum_slow_groups(const MeanTables& mean, int c, int start, int lane,
                                                Polynomial<kDegree> (&sum)[kTiles]) {
#pragma unroll
  for (auto& of_tile : sum) {
#pragma unroll
    for (float& x : of_tile) x = 0.0f;
  }
  constexpr int kEach = Tile::kRows / 4;  // rope_blocks of a group that a lane has
#pragma unroll 1
  for (int group = mean.n_fast_groups; group < mean.n_groups; ++group) {
#pragma unroll
    for (int e = 0; e < kEach; ++e) {
      const int in_group = kEach * Tile::place_in_row(lane) + e;
      const float4* of_block = reinterpret_cast<const float4*>(mean.blocks + group * kMeanBlocks + in_group);
      const float4 first = of_block[0];
      float slopes[5] = {first.z, first.w};
      if constexpr (kDegree > 2) {
        const float4 second = of_block[1];
        slopes[2] = second.x, slopes[3] = second.y, slopes[4] = second.z;
      }
      const float2 w = phase({__float_as_uint(first.x), __float_as_uint(first.y)}, half_centre(start));
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float2* of_row = reinterpret_cast<const float2*>(mean_set<kTiles>(mean, c, tile)) +
                               (group * Tile::kRows + Tile::row(lane)) * kMeanBlocks;
        const float2 a = turn(of_row[in_group], w);
        sum[tile][0] += a.x;
#pragma unroll
        for (int power = 1; power <= kDegree; ++power) {
          sum[tile][power] += (power % 2 == 0 ? a.x : a.y) * slopes[power - 1];
        }
      }
    }
  }
#pragma unroll
  for (auto& of_tile : sum) {
#pragma unroll
    for (float& x : of_tile) x = sum_of_row<Tile>(x);
  }
}

// bias = the polynomial at the lane's keys.
template <typename Tile, int kDegree>
__device__ __forceinline__ void evaluate(const float (&a)[kDegree + 1], int lane, Bias<Tile>& bias) {
  constexpr int kEven = kDegree / 2 * 2, kOdd = (kDegree - 1) / 2 * 2 + 1;  // highest powers
#pragma unroll
  for (int e = 0; e < Tile::kKeys / 8; ++e) {
    const float first = static_cast<float>(Tile::column(lane, e)) + 0.5f;
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const float x = first + static_cast<float>(8 * r), y = x * x;
      float even = a[kEven], odd = a[kOdd];
#pragma unroll
      for (int power = kEven - 2; power >= 0; power -= 2) even = fmaf(even, y, a[power]);
#pragma unroll
      for (int power = kOdd - 2; power >= 1; power -= 2) odd = fmaf(odd, y, a[power]);
      Tile::bias(bias, 8 * e + r) = fmaf(odd, x, even);
      Tile::bias(bias, 8 * e + r + 4) = fmaf(-odd, x, even);
    }
  }
}

// bias: offset + the term of the slow groups.
template <typename Tile, int kDegree, int kTiles>
__device__ __forceinline__ void slow_bias(const MeanTables& mean, int c, int start,
                                          const float (&offset)[kTiles], int lane, Bias<Tile> (&bias)[kTiles]) {
  Polynomial<kDegree> sum[kTiles];
  sum_slow_groups<Tile, kTiles, kDegree>(mean, c, start, lane, sum);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    sum[tile][0] += offset[tile];
    evaluate<Tile, kDegree>(sum[tile], lane, bias[tile]);
  }
}

// bias: offset + the term.
template <typename Tile, int kTiles>
__device__ __forceinline__ void regular_bias(const MeanTables& mean, int c, int start,
                                             const float (&offset)[kTiles], int lane,
                                             Bias<Tile> (&bias)[kTiles]) {
  if (mean.n_slopes == kFewSlopes) {
    slow_bias<Tile, kFewSlopes>(mean, c, start, offset, lane, bias);
  } else {
    slow_bias<Tile, kSlopes>(mean, c, start, offset, lane, bias);
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
#pragma unroll
  for (int i = 0; i < kTiles * Tile::kKeys; ++i) {
    Tile::bias(bias[i / Tile::kKeys], i % Tile::kKeys) = offset[i / Tile::kKeys];
  }
#pragma unroll 1
  for (int block = 0; block < mean.n_groups * kMeanBlocks; ++block) {
    __syncwarp();
#pragma unroll 1
    for (int slot = lane; slot < kCells; slot += 32) {
      mean.phases[slot] = phase(*reinterpret_cast<const uint2*>(&mean.blocks[block].half_turns),
                                2 * static_cast<std::uint32_t>(positions[cell_of_slot(slot)]));
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
