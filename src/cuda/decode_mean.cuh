// Mean-key term of the logits of a page: sum over centred rope_blocks i of Re(c_i e^(i theta_i t)), with
// c = conj(q) mu (decode_query.cuh).
//
// Regular page, positions start .. start + 63: t = centre + x, centre = start + 31.5, x = -31.5 .. 31.5. A lane
// turns its coefficients to the centre of the page in f32; f16 tensor products with the constant basis
//   rows 0..7 of A   ( Re c,  Im c)        B = (cos theta x, -sin theta x), x = 0.5 .. 31.5
//   rows 8..15       ( Re c, -Im c)        (mean_basis: high and low halves)
// give the terms of key slots with distance +x (rows 0..7) and -x (rows 8..15) at once; fragment (tile, e) of
// rows g + 8 half is key slot 32 half + 8 tile + 2 t + e. Three products keep 22 bits of both factors; one is
// enough for mean groups whose coefficients are small. Other pages: the angle of every key on its own, f32.
//
// Accuracy: 2^-20 of sum |c_i|, from the sine and cosine; one-product groups 5e-4 * kSmallMean.
#pragma once

#include <cuda_fp16.h>

#include "cuda/decode_params.h"
#include "cuda/page_layout.h"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

struct MeanTables {
  const float4* coefficients;       // [2 means][mean_lanes]
  const uint4* basis;               // [mean_group][4 tiles][32 lanes]
  const std::uint64_t* half_turns;  // [8 n_groups]
  float2* phases;                   // of this warp: [8 n_groups] or [64 keys]
  std::uint32_t big;                // bit per mean group: three products
  int n_groups, mean_lanes;
};

__device__ __forceinline__ std::uint32_t pack_f16(float low, float high) {
  const __half2 packed = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&packed);
}

__device__ __forceinline__ float2 unpack_f16(std::uint32_t packed) {
  return __half22float2(*reinterpret_cast<const __half2*>(&packed));
}

// e^(i theta t) for t = half_positions / 2, by exact reduction in 0.64 fixed point.
__device__ __forceinline__ float2 phase(std::uint64_t half_turns, std::int64_t half_positions) {
  const std::uint64_t turns = half_turns * static_cast<std::uint64_t>(half_positions);
  const float angle = static_cast<float>(static_cast<std::int32_t>(turns >> 32)) * 0x1.921fb6p-30f;
  return make_float2(__cosf(angle), __sinf(angle));
}

// bias += one mean group at coefficients c (already at the centre of the page).
__device__ __forceinline__ void add_group(const float4 c, const uint4* basis, bool big, int lane,
                                          float (&bias)[4][4]) {
  const std::uint32_t re = pack_f16(c.x, c.z), im = pack_f16(c.y, c.w), minus_im = im ^ 0x80008000u;
  if (!big) {
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
      const uint2 b = *reinterpret_cast<const uint2*>(basis + tile * 32 + lane);
      mma_f16(bias[tile], re, re, im, minus_im, b.x, b.y);
    }
    return;
  }
  const float2 re_high = unpack_f16(re), im_high = unpack_f16(im);
  const std::uint32_t re_low = pack_f16(c.x - re_high.x, c.z - re_high.y);
  const std::uint32_t im_low = pack_f16(c.y - im_high.x, c.w - im_high.y);
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) {
    const uint4 b = basis[tile * 32 + lane];
    mma_f16(bias[tile], re, re, im, minus_im, b.z, b.w);
    mma_f16(bias[tile], re_low, re_low, im_low, im_low ^ 0x80008000u, b.x, b.y);
    mma_f16(bias[tile], re, re, im, minus_im, b.x, b.y);
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

// bias: offset + the term.
__device__ __forceinline__ void regular_bias(const MeanTables& mean, int c, float offset, int lane,
                                             float (&bias)[4][4]) {
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) bias[tile][0] = bias[tile][1] = bias[tile][2] = bias[tile][3] = offset;
#pragma unroll 1
  for (int group = 0; group < mean.n_groups; ++group) {
    const float4 a = mean.coefficients[c * mean.mean_lanes + group * 32 + lane];
    const float4 w = *reinterpret_cast<const float4*>(mean.phases + group * kMeanBlocks + 2 * (lane % 4));
    const float4 turned =
        make_float4(a.x * w.x - a.y * w.y, a.x * w.y + a.y * w.x, a.z * w.z - a.w * w.w, a.z * w.w + a.w * w.z);
    add_group(turned, mean.basis + group * 128, (mean.big >> group & 1) != 0, lane, bias);
  }
}

// Pages whose positions jump. positions: of the 64 cells.
__device__ inline void irregular_bias(const MeanTables& mean, int c, const std::int32_t* positions,
                                      float offset, int lane, float (&bias)[4][4]) {
#pragma unroll
  for (int tile = 0; tile < 4; ++tile) bias[tile][0] = bias[tile][1] = bias[tile][2] = bias[tile][3] = offset;
#pragma unroll 1
  for (int block = 0; block < mean.n_groups * kMeanBlocks; ++block) {
    __syncwarp();
    for (int slot = lane; slot < kCells; slot += 32) {
      mean.phases[slot] =
          phase(mean.half_turns[block], 2 * static_cast<std::int64_t>(positions[cell_of_slot(slot)]));
    }
    __syncwarp();
    const float4 pair =
        mean.coefficients[c * mean.mean_lanes + block / kMeanBlocks * 32 + (lane & ~3) + block % 8 / 2];
    const float re = block % 2 == 0 ? pair.x : pair.z, im = block % 2 == 0 ? pair.y : pair.w;
#pragma unroll
    for (int tile = 0; tile < 4; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 w = mean.phases[32 * (i / 2) + 8 * tile + 2 * (lane % 4) + i % 2];
        bias[tile][i] += re * w.x - im * w.y;
      }
    }
  }
  __syncwarp();
}

}  // namespace gtq::cuda
