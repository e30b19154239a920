// Rows of a store on their way to the encoder: a warp takes one row of a head at a time, the warps of a thread
// block share the tables of the head in shared memory. What comes from device memory is asked for before
// anything is waited for.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "codec/norm.h"
#include "cuda/ptx.cuh"
#include "cuda/tables.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

inline constexpr int kStoreWarps = 4;
inline constexpr int kStoreThreads = 32 * kStoreWarps;

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
  float means[kMeans][128 * kRuns];     // mean keys turned to the row's position, by slot
  float2 sums[8 * kRuns][kTriedNorms];  // yc, cc of each quant_group
};

template <int kRuns>
struct StoreShared {
  NormTable norms;
  LevelGrid levels;
  CentredPair centred[64 * kRuns];
  WarpScratch<kRuns> warps[kStoreWarps];
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// A vector on its way to shared memory: x[i] is element 32 i + lane.
template <int kRuns>
struct StoreRow {
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
  for (int i = 16 * static_cast<int>(threadIdx.x); i < n_bytes; i += 16 * kStoreThreads) {
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
  long long row = static_cast<long long>(blockIdx.x) * kStoreWarps + warp;
  StoreRow<kRuns> next;
  if (row < p.n_rows) next.load(p, rows, head_dim, row, lane);
  copy_commit();
  copy_wait<0>();
  __syncthreads();
#pragma unroll 1
  while (row < p.n_rows) {
    const long long cell = next.cell;
    const int position = next.position;
    next.put_finite(scratch.row, lane);
    row += static_cast<long long>(gridDim.x) * kStoreWarps;
    if (row < p.n_rows) next.load(p, rows, head_dim, row, lane);
    __syncwarp();
    if (cell >= 0) encode(cell, position);
    __syncwarp();
  }
}

}  // namespace gtq::cuda
