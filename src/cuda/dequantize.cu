// Pages -> f16 keys and values in rows: [kv_head][n_cells][head_dim].
//
// Grid: (page of the tile, kv_head, 0 keys | 1 values). A thread block stages the page bytes in shared memory,
// decodes them into an f16 tile [64][head_dim] (dequantize.cuh), and writes that in whole lines.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/dequantize.cuh"
#include "cuda/layer.h"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kThreads = 128;

struct TileParams {
  LayerView layer;
  Cache cache;
  long long first_page, first_cell, n_cells;
  __half *keys, *values;
};

struct RowTile {
  __half* data;  // [cell][d]
  int d;
  __device__ __half& at(int cell, int dim) const { return data[cell * d + dim]; }
};

__global__ void __launch_bounds__(kThreads) dequantize_kernel(const __grid_constant__ TileParams p) {
  extern __shared__ __align__(16) std::uint8_t shared[];
  __shared__ int positions[kCells];
  const HeadTable head = p.layer.heads[blockIdx.y];
  const bool key = blockIdx.z == 0;
  const long long cell = p.first_cell + static_cast<long long>(blockIdx.x) * kCells;  // of the sequence
  const long long page_index = p.first_page + cell / kCells;
  const int d = key ? p.layer.head_dim_k : p.layer.head_dim_v;
  const int page_bytes = static_cast<int>(key ? head.key_bytes : head.value_bytes);
  const std::uint8_t* page =
      key ? p.cache.key_pages + page_index * p.layer.key_page_bytes + head.key_offset
          : p.cache.value_pages + page_index * p.layer.value_page_bytes + head.value_offset;
  __half* tile = reinterpret_cast<__half*>(shared + page_bytes);
  copy_lines(shared, page, page_bytes);
  if (threadIdx.x < kCells) {
    const long long at = cell + threadIdx.x;
    positions[threadIdx.x] = p.cache.positions != nullptr ? p.cache.positions[page_index * kCells + threadIdx.x]
                                                          : static_cast<int>(at);
  }
  clear_lines(tile, kCells * d * 2);
  __syncthreads();
  if (key) {
    dequantize_keys(p.layer, head, shared, positions, RowTile{tile, d});
  } else {
    dequantize_values(p.layer, head, shared, positions, RowTile{tile, d});
  }
  __syncthreads();
  const long long left = p.n_cells - static_cast<long long>(blockIdx.x) * kCells;
  const int n_cells = left < kCells ? static_cast<int>(left) : kCells;
  __half* to =
      (key ? p.keys : p.values) +
      (static_cast<long long>(blockIdx.y) * p.n_cells + static_cast<long long>(blockIdx.x) * kCells) * d;
  copy_lines(to, tile, n_cells * d * 2);
}

}  // namespace

void dequantize(const Layer& layer, const Cache& cache, std::int64_t first_page, std::int64_t first_cell,
                std::int64_t n_cells, std::uint16_t* keys, std::uint16_t* values, Stream stream) {
  if (n_cells == 0) return;
  if (first_cell % kCells != 0) throw Error("tiles to dequantize start at a multiple of 64 cells");
  const Layer::Impl& impl = layer.impl();
  const TileParams p{impl.view,
                     cache,
                     first_page,
                     first_cell,
                     n_cells,
                     reinterpret_cast<__half*>(keys),
                     reinterpret_cast<__half*>(values)};
  const int page_bytes = static_cast<int>(std::max(impl.view.key_bytes, impl.view.value_bytes));
  const int d = std::max(impl.view.head_dim_k, impl.view.head_dim_v);
  const int shared_bytes = page_bytes + kCells * d * 2;
  constexpr int kMostDims = kMaxGroups * 16, kMostPageBytes = kCells * (kMostDims * kMaxWidth / 8 + 1);
  check(cudaFuncSetAttribute(dequantize_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kCells * kMostDims * 2 + kMostPageBytes),
        "reserve shared memory for dequantize");
  const dim3 grid(static_cast<unsigned>((n_cells + kCells - 1) / kCells), impl.view.n_kv_heads, 2);
  dequantize_kernel<<<grid, kThreads, shared_bytes, stream>>>(p);
  check_launch("dequantize");
}

}  // namespace gtq::cuda
