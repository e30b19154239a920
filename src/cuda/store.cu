// Quantizes rows of keys and values into pages, bit by bit as KeyCodec and ValueCodec do (src/codec).
//
// A warp does one vector at a time; the warps of a thread block do rows of one head and share its tables in
// shared memory. Everything that comes from device memory is asked for before anything is waited for. Floats
// are rounded and summed as on the CPU, integers in any order; the file is compiled without contraction to
// fused multiply-adds. One source of difference is left: sines and cosines of doubles whose last bit decides
// how they round to float. Grid: x over rows, y KV head, z 0 keys, 1 values.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/encode_search.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/layer.h"
#include "cuda/page_codes.cuh"
#include "cuda/ptx.cuh"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kBlocksPerMultiprocessor = 8;  // more rows go to the same thread blocks

struct StoreParams {
  LayerView layer;
  Cache cache;
  Rows keys, values;
  const std::int64_t* cells;
  const std::int32_t* positions;
  long long n_rows;
};

struct WarpPlace {
  int warp, lane;
};
__device__ __forceinline__ WarpPlace place_in_block() {
  // The shuffle tells the compiler that the warp is the same in all lanes.
  return {__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0), static_cast<int>(threadIdx.x) % 32};
}

// kRuns: runs of a lane, for heads of up to 128 kRuns dims.
template <int kRuns>
struct WarpScratch {
  float row[128 * kRuns];               // the vector as given, by dim
  float means[2][128 * kRuns];          // mean keys turned to the row's position, by slot
  float2 sums[8 * kRuns][kTriedNorms];  // yc, cc of each quant_group
};

template <int kRuns>
struct Shared {
  NormTable norms;
  LevelGrid levels;
  CentredPair centred[64 * kRuns];
  WarpScratch<kRuns> warps[kWarps];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// A vector on its way to shared memory: x[i] is element 32 i + lane.
template <int kRuns>
struct Row {
  float x[4 * kRuns];
  long long cell;
  int position;

  template <typename T>
  __device__ __forceinline__ void load_as(const void* data, long long first, int head_dim, int lane) {
    const T* from = static_cast<const T*>(data) + first;
#pragma unroll
    for (int i = 0; i < 4 * kRuns; ++i) {
      const int dim = 32 * i + lane;
      x[i] = dim < head_dim ? to_float(from[dim]) : 0.0f;
    }
  }

  __device__ __forceinline__ void load(const StoreParams& p, const Rows& rows, int head_dim, long long row,
                                       int lane) {
    cell = p.cells[row];
    position = p.positions[row];
    const long long first = row * rows.row_stride + blockIdx.y * rows.head_stride;
    switch (rows.type) {
      case Type::kF16:
        return load_as<__half>(rows.data, first, head_dim, lane);
      case Type::kBf16:
        return load_as<__nv_bfloat16>(rows.data, first, head_dim, lane);
      default:
        return load_as<float>(rows.data, first, head_dim, lane);
    }
  }

  __device__ __forceinline__ void put_finite(float* to, int lane) const {
#pragma unroll
    for (int i = 0; i < 4 * kRuns; ++i) to[32 * i + lane] = isfinite(x[i]) ? x[i] : 0.0f;
  }
};

// Starts a copy by all threads of the block; n_bytes is a multiple of 16.
__device__ __forceinline__ void copy_table(void* to, const void* from, int n_bytes) {
  for (int i = 16 * static_cast<int>(threadIdx.x); i < n_bytes; i += 16 * kThreads) {
    copy_16(shared_address(static_cast<char*>(to) + i), static_cast<const char*>(from) + i);
  }
}

// Bytes: of a head in a page of all heads, and of its norms from there.
struct PageOffsets {
  std::uint32_t codes, norms;
};

// encode(cell, position) for every row of this warp, the vector in scratch.row. Waits for the tables.
template <int kRuns, typename Encode>
__device__ __forceinline__ void for_each_row(const StoreParams& p, const Rows& rows, int head_dim,
                                             WarpScratch<kRuns>& scratch, Encode encode) {
  const auto [warp, lane] = place_in_block();
  long long row = static_cast<long long>(blockIdx.x) * kWarps + warp;
  Row<kRuns> next;
  if (row < p.n_rows) next.load(p, rows, head_dim, row, lane);
  copy_commit();
  copy_wait<0>();
  __syncthreads();
#pragma unroll 1
  while (row < p.n_rows) {
    const long long cell = next.cell;
    const int position = next.position;
    next.put_finite(scratch.row, lane);
    row += static_cast<long long>(gridDim.x) * kWarps;
    if (row < p.n_rows) next.load(p, rows, head_dim, row, lane);
    __syncwarp();
    if (cell >= 0) encode(cell, position);
    __syncwarp();
  }
}

// Both mean keys at a position; slots without a mean key keep their zeros.
template <int kRuns>
__device__ __forceinline__ void turn_means(const CentredPair* pairs, int n_pairs, int position, int lane,
                                           float (&means)[2][128 * kRuns]) {
#pragma unroll 1
  for (int i = lane; i < n_pairs; i += 32) {
    const CentredPair& pair = pairs[i];
    double sine, cosine;
    sincos(pair.theta * static_cast<double>(position), &sine, &cosine);
    const float c = static_cast<float>(cosine), s = static_cast<float>(sine);
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float x = pair.mean[m][0], y = pair.mean[m][1];
      *reinterpret_cast<float2*>(&means[m][pair.slot]) = make_float2(x * c - y * s, x * s + y * c);
    }
  }
  __syncwarp();
}

// A key in the order of its slots, and both mean keys.
template <int kRuns>
struct KeySlots {
  float key[kRuns][4], means[2][kRuns][4];

  __device__ __forceinline__ KeySlots(const KeyRun (&runs)[kRuns], const WarpScratch<kRuns>& scratch,
                                      int lane) {
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        key[r][i] = scratch.row[runs[r].dims[i]];
        for (int m = 0; m < 2; ++m) means[m][r][i] = scratch.means[m][128 * r + 4 * lane + i];
      }
    }
  }

  // By sums in the order of the format.
  __device__ __forceinline__ int nearer_mean_in_order(const KeyRun (&runs)[kRuns]) const {
    double sums[2] = {};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll 1
      for (int from = 0; from < 32; ++from) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const double weight = __shfl_sync(~0u, runs[r].weight[i], from);
          const double x = __shfl_sync(~0u, key[r][i], from);
#pragma unroll
          for (int m = 0; m < 2; ++m) {
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
    float sums[2] = {};
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int m = 0; m < 2; ++m) {
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

template <int kRuns>
__device__ void store_keys(const StoreParams& p, Shared<kRuns>& shared) {
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
    for (int m = 0; m < 2; ++m) {
      *reinterpret_cast<float4*>(&scratch.means[m][128 * r + 4 * lane]) = make_float4(0, 0, 0, 0);
    }
  }
  for_each_row<kRuns>(p, p.keys, d, scratch, [&](long long cell, int position) {
    turn_means<kRuns>(shared.centred, head.n_centred, position, lane, scratch.means);
    const KeySlots<kRuns> slots(runs, scratch, lane);
    const int c = head.one_mean != 0 ? 1 : slots.nearer_mean(runs);
    float y[kRuns][4], squares[kRuns];
    transform_key(runs, slots, c, lane, y);
    const FixedRuns<kRuns> v = to_fixed(y);
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      squares[r] = runs[r].group_weight * static_cast<float>(sum_group_squares(sum_squares(v.f[r])));
    }
    const float yy = sum_groups(squares);
    const float rms = sqrtf(yy / head.total_weight) * v.unit;
    const int multiplier = find_multiplier(shared.norms, rms, v.unit, lane);
    const float2 sums = sum_key_codes(shared.levels, runs, v, multiplier, lane, scratch.sums);
    const Choice best = choose_key_norm(shared.norms, sums.x, sums.y, yy, v.unit, v.inverse_unit);
    const int chosen = __shfl_sync(~0u, multiplier, best.tried);
    const CellPlace at = place_of_cell(cell);
    std::uint8_t* page = p.cache.key_pages + at.page * p.layer.key_page_bytes + offsets.codes;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const int width = runs[r].width;
      if (128 * r + 4 * lane >= d) break;
      put_key_run(page + runs[r].offset, width, at.in_page, lane % 4,
                  find_codes(shared.levels.cells[width - 1], width, v.f[r], chosen));
    }
    if (lane != 0) return;
    page[offsets.norms + at.in_page] = static_cast<std::uint8_t>(c << 7 | best.norm_code);
    if (h == 0) p.cache.positions[cell] = position;
  });
}

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

template <int kRuns>
__device__ void store_values(const StoreParams& p, Shared<kRuns>& shared) {
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
    std::uint32_t low = 0, high = 0;  // halves of 32 bits, so that no sum overflows
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      const std::uint32_t squares = sum_squares(v.f[r]);
      low += squares & 0xffff;
      high += squares >> 16;
    }
    const std::uint64_t yy =
        (static_cast<std::uint64_t>(__reduce_add_sync(~0u, high)) << 16) + __reduce_add_sync(~0u, low);
    const float rms = sqrtf(static_cast<float>(yy) / static_cast<float>(d)) * v.unit;
    const int multiplier = find_multiplier(shared.norms, rms, v.unit, lane);
    const CodeSums sums = sum_value_codes(grid, v, multiplier, d, lane);
    const Choice best =
        choose_value_norm(shared.norms, sums.yc, sums.cc, yy, v.unit, p.layer.encode.value_step);
    const int chosen = __shfl_sync(~0u, multiplier, best.tried);
    const CellPlace at = place_of_cell(cell);
    std::uint8_t* page = p.cache.value_pages + at.page * p.layer.value_page_bytes + offsets.codes;
#pragma unroll
    for (int r = 0; r < kRuns; ++r) {
      if (128 * r + 4 * lane >= d) break;
      put_value_run(page, d, width, at.in_page, 32 * r + lane, find_codes(grid, width, v.f[r], chosen));
    }
    if (lane == 0) page[offsets.norms + at.in_page] = static_cast<std::uint8_t>(best.norm_code);
  });
}

template <int kRuns>
__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreParams p) {
  __shared__ Shared<kRuns> shared;
  copy_table(&shared.levels, &p.layer.codec->levels, sizeof shared.levels);
  if (blockIdx.z == 0) {
    store_keys<kRuns>(p, shared);
  } else {
    store_values<kRuns>(p, shared);
  }
}

}  // namespace

void store(const StoreCall& call, Stream stream) {
  if (call.n_rows == 0) return;
  const Layer::Impl& impl = call.layer->impl();
  const LayerView& layer = impl.view;
  if (call.cache.positions == nullptr) throw Error("store on the GPU needs an array of positions");
  const StoreParams p{layer, call.cache, call.keys, call.values, call.cells, call.positions, call.n_rows};
  const long long most = std::max(1, kBlocksPerMultiprocessor * impl.n_sms / (2 * layer.n_kv_heads));
  const auto n_blocks = static_cast<unsigned>(std::min<long long>((call.n_rows + kWarps - 1) / kWarps, most));
  const dim3 grid(n_blocks, static_cast<unsigned>(layer.n_kv_heads), 2);
  if (std::max(layer.head_dim_k, layer.head_dim_v) <= 128) {
    store_kernel<1><<<grid, kThreads, 0, stream>>>(p);
  } else {
    store_kernel<2><<<grid, kThreads, 0, stream>>>(p);
  }
  check_launch("store");
}

}  // namespace gtq::cuda
