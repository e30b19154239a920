// Mean-key term of the logits of a page: sum over centred rope_blocks i of Re(c_i e^(i theta_i t)), with
// c = conj(q) mu (decode_query.cuh).
//
// Regular page, positions start .. start + 63: t = centre + x, centre = start + 31.5, x = -31.5 .. 31.5. A lane
// turns its coefficients to the centre of the page in f32; f16 tensor products with the constant basis
//   rows 0..7 of A   ( Re c,  Im c)        B = (cos theta x, -sin theta x), x = 0.5 .. 31.5
//   rows 8..15       ( Re c, -Im c)        (mean_basis: high and low halves)
// give the terms of key slots with distance +x (rows 0..7) and -x (rows 8..15) at once; fragment (r, e) of
// rows g + 8 half is key slot 32 half + 8 r + 2 t + e. Three products keep 22 bits of both factors; one is
// enough for mean groups whose coefficients are small. Slow rope_blocks (is_slow()) hardly turn within a page:
// their sum is one polynomial in x,
//   sum_i Re c_i (1 - (theta_i x)^2 / 2 + (theta_i x)^4 / 24) - Im c_i (theta_i x - (theta_i x)^3 / 6 + ...)
// whose six coefficients a lane sums over its rope_blocks and the row over its lanes. Other pages: the angle of
// every key on its own, f32.
//
// Accuracy: 2^-20 of sum |c_i|, from the sine and cosine; one-product groups 5e-4 * kSmallMean.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/f16.cuh"
#include "cuda/page_layout.h"
#include "cuda/phase.cuh"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

struct MeanTables {
  const float4* coefficients;       // [2 means][tile][mean_lanes]
  const uint4* basis;               // [fast mean_group][4 r][32 lanes]
  const float* slopes;              // [kSlopes][8 mean groups of the layer]
  const std::uint64_t* half_turns;  // [8 n_groups]
  float2* phases;                   // of this warp: [8 n_groups] or [64 keys]
  std::uint32_t big;                // bit per mean group: three products
  int n_groups, n_fast_groups, mean_lanes;
};

// Of a tile: [r][e + 2 half] of key slot 32 half + 8 r + 2 t + e.
using Bias = float[4][4];

// A coefficients of a mean group as f16.
struct MeanFragment {
  std::uint32_t re, im;

  __device__ __forceinline__ std::uint32_t minus_im() const { return im ^ 0x80008000u; }
};

// bias += one mean group at coefficients c (already at the centre of the page).
template <int kTiles>
__device__ __forceinline__ void add_group(const float4 (&c)[kTiles], const uint4* basis, bool big, int lane,
                                          Bias (&bias)[kTiles]) {
  MeanFragment high[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    high[tile] = {pack_f16(c[tile].x, c[tile].z), pack_f16(c[tile].y, c[tile].w)};
  }
  const auto add = [&](const MeanFragment(&a)[kTiles], int r, std::uint32_t b0, std::uint32_t b1) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      mma_f16(bias[tile][r], a[tile].re, a[tile].re, a[tile].im, a[tile].minus_im(), b0, b1);
    }
  };
  if (!big) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const uint2 b = *reinterpret_cast<const uint2*>(basis + r * 32 + lane);
      add(high, r, b.x, b.y);
    }
    return;
  }
  MeanFragment low[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float2 re = unpack_f16(high[tile].re), im = unpack_f16(high[tile].im);
    low[tile] = {pack_f16(c[tile].x - re.x, c[tile].z - re.y), pack_f16(c[tile].y - im.x, c[tile].w - im.y)};
  }
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    const uint4 b = basis[r * 32 + lane];
    add(high, r, b.z, b.w);
    add(low, r, b.x, b.y);
    add(high, r, b.x, b.y);
  }
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

template <int kTiles>
__device__ __forceinline__ void fill_bias(const float (&offset)[kTiles], Bias (&bias)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int r = 0; r < 4; ++r)
      bias[tile][r][0] = bias[tile][r][1] = bias[tile][r][2] = bias[tile][r][3] = offset[tile];
  }
}

// Coefficients of mean c and a tile.
template <int kTiles>
__device__ __forceinline__ const float4* mean_set(const MeanTables& mean, int c, int tile) {
  return mean.coefficients + (c * kTiles + tile) * mean.mean_lanes;
}

// Coefficients of the lane's two rope_blocks of a mean group, at the centre of the page.
template <int kTiles>
__device__ __forceinline__ void turn_group(const MeanTables& mean, int c, int group, int lane,
                                           float4 (&turned)[kTiles]) {
  const float4 w = *reinterpret_cast<const float4*>(mean.phases + group * kMeanBlocks + 2 * (lane % 4));
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float4 a = mean_set<kTiles>(mean, c, tile)[group * 32 + lane];
    turned[tile] =
        make_float4(a.x * w.x - a.y * w.y, a.x * w.y + a.y * w.x, a.z * w.z - a.w * w.w, a.z * w.w + a.w * w.z);
  }
}

// Of a tile: of x^0, x^1, ...
using Polynomial = float[kSlopes + 1];

// The slow groups, of all lanes of a row.
template <int kTiles>
__device__ __forceinline__ void sum_slow_groups(const MeanTables& mean, int c, int lane,
                                                Polynomial (&sum)[kTiles]) {
#pragma unroll
  for (int i = 0; i < kTiles * (kSlopes + 1); ++i) sum[i / (kSlopes + 1)][i % (kSlopes + 1)] = 0.0f;
#pragma unroll 1
  for (int group = mean.n_fast_groups; group < mean.n_groups; ++group) {
    float4 turned[kTiles];
    turn_group(mean, c, group, lane, turned);
    const float* slopes = mean.slopes + group * kMeanBlocks + 2 * (lane % 4);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) sum[tile][0] += turned[tile].x + turned[tile].z;
#pragma unroll
    for (int power = 1; power <= kSlopes; ++power) {
      const float2 slope = *reinterpret_cast<const float2*>(slopes + (power - 1) * mean.mean_lanes / 4);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const float4 a = turned[tile];
        sum[tile][power] += power % 2 == 0 ? a.x * slope.x + a.z * slope.y : a.y * slope.x + a.w * slope.y;
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int power = 0; power <= kSlopes; ++power) {
      sum[tile][power] += __shfl_xor_sync(~0u, sum[tile][power], 1);
      sum[tile][power] += __shfl_xor_sync(~0u, sum[tile][power], 2);
    }
  }
}

// bias = the polynomial at the lane's keys.
__device__ __forceinline__ void evaluate(const Polynomial& a, int lane, Bias& bias) {
  static_assert(kSlopes == 5);
  const float first = static_cast<float>(2 * (lane % 4)) + 0.5f;
#pragma unroll
  for (int r = 0; r < 4; ++r) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float x = first + static_cast<float>(8 * r + e), y = x * x;
      const float even = fmaf(fmaf(a[4], y, a[2]), y, a[0]), odd = fmaf(fmaf(a[5], y, a[3]), y, a[1]);
      bias[r][e] = fmaf(odd, x, even);
      bias[r][e + 2] = fmaf(-odd, x, even);
    }
  }
}

// bias: offset + the term.
template <int kTiles>
__device__ __forceinline__ void regular_bias(const MeanTables& mean, int c, const float (&offset)[kTiles],
                                             int lane, Bias (&bias)[kTiles]) {
  if (mean.n_fast_groups < mean.n_groups) {
    Polynomial sum[kTiles];
    sum_slow_groups(mean, c, lane, sum);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      sum[tile][0] += offset[tile];
      evaluate(sum[tile], lane, bias[tile]);
    }
  } else {
    fill_bias(offset, bias);
  }
#pragma unroll 1
  for (int group = 0; group < mean.n_fast_groups; ++group) {
    float4 turned[kTiles];
    turn_group(mean, c, group, lane, turned);
    add_group(turned, mean.basis + group * 128, (mean.big >> group & 1) != 0, lane, bias);
  }
}

// Pages whose positions jump. positions: of the 64 cells.
template <int kTiles>
__device__ inline void irregular_bias(const MeanTables& mean, int c, const std::int32_t* positions,
                                      const float (&offset)[kTiles], int lane, Bias (&bias)[kTiles]) {
  fill_bias(offset, bias);
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
      const float4 pair =
          mean_set<kTiles>(mean, c, tile)[block / kMeanBlocks * 32 + (lane & ~3) + block % 8 / 2];
      const float re = block % 2 == 0 ? pair.x : pair.z, im = block % 2 == 0 ? pair.y : pair.w;
#pragma unroll
      for (int r = 0; r < 4; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float2 w = mean.phases[32 * (i / 2) + 8 * r + 2 * (lane % 4) + i % 2];
          bias[tile][r][i] += re * w.x - im * w.y;
        }
      }
    }
  }
  __syncwarp();
}

}  // namespace gtq::cuda
