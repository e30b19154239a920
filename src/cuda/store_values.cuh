// Values of a head into its pages, as ValueCodec::encode. Lane l has dims 4 l ..+3, and with kRuns 2 dims 128 +
// 4 l ..+3.
#pragma once

#include "cuda/encode_search.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/page_codes.cuh"
#include "cuda/store_rows.cuh"

namespace gtq::cuda {

// Signed and scaled elements, transformed in runs of n_points.
template <int kRuns>
__device__ __forceinline__ void transform_value(const float* row, const float4 (&gains)[kRuns], int n_points,
                                                float scale, int lane, float (&y)[kRuns][4]) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const float4 x = *reinterpret_cast<const float4*>(row + 128 * r + 4 * lane);
    y[r][0] = limited(x.x * gains[r].x);
    y[r][1] = limited(x.y * gains[r].y);
    y[r][2] = limited(x.z * gains[r].z);
    y[r][3] = limited(x.w * gains[r].w);
    hadamard_own(y[r]);
  }
#pragma unroll 1
  for (int bit = 1; bit < 32 && 4 * bit < n_points; bit *= 2) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) hadamard_lanes(y[r], bit, lane);
  }
  if constexpr (kRuns == 2) {
    if (n_points == 256) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float a = y[0][i], b = y[1][i];
        y[0][i] = a + b;
        y[1][i] = a - b;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) y[r][i] *= scale;
  }
}

// Lane t: the sums over all lanes for norm t.
template <int kRuns>
__device__ __forceinline__ CodeSums sum_value_codes(const std::uint32_t* grid, const FixedRuns<kRuns>& v,
                                                    int multiplier, int head_dim, int lane) {
  CodeSums mine{};
#pragma unroll
  for (int t = 0; t < kTriedNorms; ++t) {
    const int m = __shfl_sync(~0u, multiplier, t);
    CodeSums sums{};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      // Zeros past the end would count: they have a level, too.
      if (128 * r + 4 * lane < head_dim) add_code_sums(grid, v.f[r], m, sums);
    }
    sums.yc = __reduce_add_sync(~0u, sums.yc);
    sums.cc = __reduce_add_sync(~0u, sums.cc);
    if (t == 0 || t == lane) mine = sums;
  }
  return mine;
}

// The norm whose codes fit best.
template <int kRuns>
__device__ __forceinline__ FoundNorm search_value(const NormTable& norms, const std::uint32_t* grid,
                                                  const FixedRuns<kRuns>& v, int head_dim, float step,
                                                  int lane) {
  std::uint32_t low = 0, high = 0;  // halves of 32 bits, so that no sum overflows
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const std::uint32_t squares = sum_squares(v.f[r]);
    low += squares & 0xffff;
    high += squares >> 16;
  }
  const std::uint64_t yy =
      (static_cast<std::uint64_t>(__reduce_add_sync(~0u, high)) << 16) + __reduce_add_sync(~0u, low);
  const float rms = sqrtf(static_cast<float>(yy) / static_cast<float>(head_dim)) * v.unit;
  const int multiplier = find_multiplier(norms, rms, v.unit, lane);
  const CodeSums sums = sum_value_codes(grid, v, multiplier, head_dim, lane);
  const Choice best = choose_value_norm(norms, sums.yc, sums.cc, yy, v.unit, step);
  return {__shfl_sync(~0u, multiplier, best.tried), best.norm_code};
}

template <int kRuns>
__device__ __forceinline__ void store_values(const StoreParams& p, StoreShared<kRuns>& shared) {
  const auto [warp, lane] = place_in_block();
  const int d = p.layer.head_dim_v, width = p.layer.v_width, h = static_cast<int>(blockIdx.y);
  copy_table(&shared.norms, &p.layer.codec->value_norms, sizeof shared.norms);
  const PageOffsets offsets = {p.layer.heads[h].value_offset, p.layer.heads[h].value_bytes - kCells};
  WarpScratch<kRuns>& scratch = shared.warps[warp];
  const std::uint32_t* grid = shared.levels.cells[width - 1];
  float4 gains[kRuns];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) gains[r] = p.layer.encode.value_gains[h * kMostRuns + 32 * r + lane];
  for_each_row<kRuns>(p, p.values, d, scratch, [&](long long cell, int) {
    float y[kRuns][4];
    transform_value(scratch.row, gains, d & -d, p.layer.encode.value_rotation_scale, lane, y);
    const FixedRuns<kRuns> v = to_fixed(y);
    const FoundNorm found = search_value(shared.norms, grid, v, d, p.layer.encode.value_step, lane);
    const CellPlace at = place_of_cell(cell);
    std::uint8_t* page = p.cache.value_pages + at.page * p.layer.value_page_bytes + offsets.codes;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      if (128 * r + 4 * lane >= d) break;
      put_value_run(page, d, width, at.in_page, 32 * r + lane,
                    find_codes(grid, width, v.f[r], found.multiplier));
    }
    if (lane == 0) page[offsets.norms + at.in_page] = static_cast<std::uint8_t>(found.norm_code);
  });
}

}  // namespace gtq::cuda
