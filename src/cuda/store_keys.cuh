// Keys of a head into its pages, as KeyCodec::encode. Lane 4 g + t has slots 4 t ..+3 of quant_group g, and
// with kRuns 2 those of group 8 + g.
#pragma once

#include "cuda/encode_search.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/page_codes.cuh"
#include "cuda/store_rows.cuh"

namespace gtq::cuda {

// Both mean keys at a position; slots without a mean key keep their zeros.
template <int kRuns>
__device__ __forceinline__ void turn_means(const CentredPair* pairs, int n_pairs, int position, int lane,
                                           float (&means)[kMeans][128 * kRuns]) {
#pragma unroll 1
  for (int i = lane; i < n_pairs; i += 32) {
    const CentredPair& pair = pairs[i];
    double sine, cosine;
    sincos(pair.theta * static_cast<double>(position), &sine, &cosine);
    const float c = static_cast<float>(cosine), s = static_cast<float>(sine);
#pragma unroll
    for (int m = 0; m < kMeans; ++m) {
      const float x = pair.mean[m][0], y = pair.mean[m][1];
      *reinterpret_cast<float2*>(&means[m][pair.slot]) = make_float2(x * c - y * s, x * s + y * c);
    }
  }
  __syncwarp();
}

// A key in the order of its slots, and both mean keys.
template <int kRuns>
struct KeySlots {
  float key[kRuns][4], means[kMeans][kRuns][4];

  __device__ __forceinline__ KeySlots(const KeyRun (&runs)[kRuns], const WarpScratch<kRuns>& scratch,
                                      int lane) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        key[r][i] = scratch.row[runs[r].dims[i]];
        for (int m = 0; m < kMeans; ++m) means[m][r][i] = scratch.means[m][128 * r + 4 * lane + i];
      }
    }
  }

  // By sums in the order of the format.
  __device__ __forceinline__ int nearer_mean_in_order(const KeyRun (&runs)[kRuns]) const {
    double sums[kMeans] = {};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll 1
      for (int from = 0; from < 32; ++from) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const double weight = __shfl_sync(~0u, runs[r].weight[i], from);
          const double x = __shfl_sync(~0u, key[r][i], from);
#pragma unroll
          for (int m = 0; m < kMeans; ++m) {
            const double e = x - static_cast<double>(__shfl_sync(~0u, means[m][r][i], from));
            sums[m] += weight * e * e;
          }
        }
      }
    }
    return sums[0] < sums[1] ? 0 : 1;
  }

  // The same by sums in float and another order, unless they are too close to decide: they are rounded some 20
  // times, each time by up to 2^-24 of themselves.
  __device__ __forceinline__ int nearer_mean(const KeyRun (&runs)[kRuns]) const {
    float sums[kMeans] = {};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int m = 0; m < kMeans; ++m) {
          const float e = key[r][i] - means[m][r][i];
          sums[m] += e * e * runs[r].weight[i];
        }
      }
    }
#pragma unroll
    for (int bit = 1; bit < 32; bit *= 2) {
      sums[0] += __shfl_xor_sync(~0u, sums[0], bit);
      sums[1] += __shfl_xor_sync(~0u, sums[1], bit);
    }
    const float both = sums[0] + sums[1], margin = 0x1p-16f * both;
    if (both > 0x1p-60f) {  // numbers so small have other errors
      if (sums[0] < sums[1] - margin) return 0;
      if (sums[1] < sums[0] - margin) return 1;
    }
    return nearer_mean_in_order(runs);
  }
};

// Sum over the 4 lanes of a quant_group.
template <typename T>
__device__ __forceinline__ T sum_group(T x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

// Sum of squares of a quant_group; x, one lane's, has 32 bits.
__device__ __forceinline__ std::uint64_t sum_group_squares(std::uint32_t x) {
  return (static_cast<std::uint64_t>(sum_group(x >> 16)) << 16) + sum_group(x & 0xffff);
}

// Sum of one number of every quant_group, in their order.
template <int kRuns>
__device__ __forceinline__ float sum_groups(const float (&x)[kRuns]) {
  float sum = 0;
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int g = 0; g < 8; ++g) sum += __shfl_sync(~0u, x[r], 4 * g);
  }
  return sum;
}

// Signed and scaled residuals, transformed.
template <int kRuns>
__device__ __forceinline__ void transform_key(const KeyRun (&runs)[kRuns], const KeySlots<kRuns>& slots, int c,
                                              int lane, float (&y)[kRuns][4]) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float mean = c == 0 ? slots.means[0][r][i] : slots.means[1][r][i];
      y[r][i] = limited(runs[r].gain[i] * (slots.key[r][i] - mean));
    }
    hadamard_own(y[r]);
    hadamard_lanes(y[r], 1, lane);
    hadamard_lanes(y[r], 2, lane);
#pragma unroll
    for (int i = 0; i < 4; ++i) y[r][i] *= 0.25f;
  }
}

// Weighted sums of all groups for the norms of `multiplier`: lane t gets those of norm t.
template <int kRuns>
__device__ __forceinline__ float2 sum_key_codes(const LevelGrid& levels, const KeyRun (&runs)[kRuns],
                                                const FixedRuns<kRuns>& v, int multiplier, int lane,
                                                float2 (&group_sums)[8 * kRuns][kTriedNorms]) {
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    const std::uint32_t* grid = levels.cells[runs[r].width - 1];
#pragma unroll
    for (int t = 0; t < kTriedNorms; ++t) {
      CodeSums sums{};
      add_code_sums(grid, v.f[r], __shfl_sync(~0u, multiplier, t), sums);
      const float yc = static_cast<float>(sum_group(sums.yc)), cc = static_cast<float>(sum_group(sums.cc));
      if (lane % 4 == t % 4) {
        group_sums[8 * r + lane / 4][t] = make_float2(runs[r].yc_weight * yc, runs[r].cc_weight * cc);
      }
    }
  }
  __syncwarp();
  float2 total = make_float2(0, 0);
#pragma unroll
  for (int g = 0; g < 8 * kRuns; ++g) {
    const float2 sums = group_sums[g][min(lane, kTriedNorms - 1)];
    total.x += sums.x;
    total.y += sums.y;
  }
  return total;
}

// The norm whose codes fit best.
template <int kRuns>
__device__ __forceinline__ FoundNorm search_key(const StoreShared<kRuns>& shared, const KeyRun (&runs)[kRuns],
                                                const FixedRuns<kRuns>& v, float total_weight, int lane,
                                                WarpScratch<kRuns>& scratch) {
  float squares[kRuns];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    squares[r] = runs[r].group_weight * static_cast<float>(sum_group_squares(sum_squares(v.f[r])));
  }
  const float yy = sum_groups(squares);
  const float rms = sqrtf(yy / total_weight) * v.unit;
  const int multiplier = find_multiplier(shared.norms, rms, v.unit, lane);
  const float2 sums = sum_key_codes(shared.levels, runs, v, multiplier, lane, scratch.sums);
  const Choice best = choose_key_norm(shared.norms, sums.x, sums.y, yy, v.unit, v.inverse_unit);
  return {__shfl_sync(~0u, multiplier, best.tried), best.norm_code};
}

template <int kRuns>
__device__ __forceinline__ void store_keys(const StoreParams& p, StoreShared<kRuns>& shared) {
  const auto [warp, lane] = place_in_block();
  const int d = p.layer.head_dim_k, h = static_cast<int>(blockIdx.y);
  copy_table(&shared.norms, &p.layer.codec->key_norms, sizeof shared.norms);
  copy_table(shared.centred, p.layer.encode.centred + h * (d / 2),
             d / 2 * static_cast<int>(sizeof(CentredPair)));
  const PageOffsets offsets = {p.layer.heads[h].key_offset, p.layer.heads[h].key_bytes - kCells};
  const EncodeHead head = p.layer.encode.heads[h];
  WarpScratch<kRuns>& scratch = shared.warps[warp];
  KeyRun runs[kRuns];
#pragma unroll
  for (int r = 0; r < kRuns; ++r) {
    runs[r] = p.layer.encode.key_runs[h * kMostRuns + 32 * r + lane];
    for (int m = 0; m < kMeans; ++m) {
      *reinterpret_cast<float4*>(&scratch.means[m][128 * r + 4 * lane]) = make_float4(0, 0, 0, 0);
    }
  }
  for_each_row<kRuns>(p, p.keys, d, scratch, [&](long long cell, int position) {
    turn_means<kRuns>(shared.centred, head.n_centred, position, lane, scratch.means);
    const KeySlots<kRuns> slots(runs, scratch, lane);
    const int c = head.one_mean != 0 ? 1 : slots.nearer_mean(runs);
    float y[kRuns][4];
    transform_key(runs, slots, c, lane, y);
    const FixedRuns<kRuns> v = to_fixed(y);
    const FoundNorm found = search_key(shared, runs, v, head.total_weight, lane, scratch);
    const CellPlace at = place_of_cell(cell);
    std::uint8_t* page = p.cache.key_pages + at.page * p.layer.key_page_bytes + offsets.codes;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const int width = runs[r].width;
      if (128 * r + 4 * lane >= d) break;
      put_key_run(page + runs[r].offset, width, at.in_page, lane % 4,
                  find_codes(shared.levels.cells[width - 1], width, v.f[r], found.multiplier));
    }
    if (lane != 0) return;
    page[offsets.norms + at.in_page] = static_cast<std::uint8_t>(c << 7 | found.norm_code);
    if (h == 0) p.cache.positions[cell] = position;
  });
}

}  // namespace gtq::cuda
