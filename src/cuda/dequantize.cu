// Page tiles -> f16 keys and values for prefill: a caller dequantizes a bounded tile of the context at a time
// and hands it to a tensor-core attention kernel for f16.
//
//   keys   [kv_head][n_cells][head_dim_k]  residual + mean key turned to the cell's position, summed in f32 and
//   rounded
//          once: as exact as an f16 key can be
//   values [kv_head][n_cells][head_dim_v]
// Grid: (page of the tile, kv_head, 0 keys | 1 values). A thread block stages the page bytes in shared memory,
// decodes one quant_group of a key (16 dims of a value) per thread at a time into an f16 tile [64][head_dim],
// and writes that in whole lines. Accuracy: f16 rounding; sine and cosine 2^-20. Reference:
// src/reference/codec.cc.
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/decode_mean.cuh"
#include "cuda/hadamard.cuh"
#include "cuda/layer.h"
#include "cuda/page_codes.cuh"
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

__device__ void decode_codes(const CodecTable& codec, int width, const std::uint8_t (&codes)[16],
                             float (&x)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = codec.centroids[width - 1][codes[i]];
  hadamard_own(x);
}

// One quant_group of the key of a cell into its row of the tile.
__device__ void decode_key_group(const LayerView& layer, const HeadTable& head, const std::uint8_t* page,
                                 int cell, int group, int position, __half* row) {
  const std::uint8_t norm_byte = page[head.key_bytes - kCells + cell];
  const int width = head.widths[group], d = layer.head_dim_k;
  std::uint8_t codes[16];
  float x[16];
  get_key_codes(page + 128 * sum_of_widths(head.widths, group), width, cell, codes);
  decode_codes(*layer.codec, width, codes, x);
  const float norm = layer.codec->key_norms.norms[norm_byte & 127] * 0.25f;
  const float* means = head.mean_keys + (norm_byte >> 7) * d;
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const int slot = 16 * group + i, dim0 = head.dims[slot], dim1 = head.dims[slot + 1];
    float k0 = norm * layer.codec->key_signs[slot] * x[i] / head.scale[slot];
    float k1 = norm * layer.codec->key_signs[slot + 1] * x[i + 1] / head.scale[slot + 1];
    if (head.pair_centred[slot / 2] != 0) {
      const float2 turn = phase(head.pair_half_turns[slot / 2], 2 * static_cast<long long>(position));
      const float m0 = means[dim0], m1 = means[dim1];
      k0 += m0 * turn.x - m1 * turn.y;
      k1 += m0 * turn.y + m1 * turn.x;
    }
    row[dim0] = __float2half_rn(k0);
    row[dim1] = __float2half_rn(k1);
  }
}

__device__ void decode_keys(const TileParams& p, const HeadTable& head, const std::uint8_t* page,
                            const int* positions, __half* tile) {
  const int d = p.layer.head_dim_k, n_groups = d / 16;
  for (int i = threadIdx.x; i < kCells * n_groups; i += kThreads) {
    const int cell = i % kCells, group = i / kCells;
    if (positions[cell] != kEmptyCell) {
      decode_key_group(p.layer, head, page, cell, group, positions[cell], tile + cell * d);
    }
  }
}

// n_lanes lanes of a warp do one value.
__device__ void decode_values(const TileParams& p, const HeadTable& head, const std::uint8_t* page,
                              const int* positions, __half* tile) {
  const int d = p.layer.head_dim_v, n_used = d / 16, width = p.layer.v_width, n_points = d & -d;
  int n_lanes = 1;
  while (n_lanes < n_used) n_lanes *= 2;
  const int lane = static_cast<int>(threadIdx.x) % n_lanes;
  const float scale = rsqrtf(static_cast<float>(n_points));
  for (int cell = static_cast<int>(threadIdx.x) / n_lanes; cell < kCells; cell += kThreads / n_lanes) {
    std::uint8_t codes[16] = {};
    float x[16];
    if (lane < n_used) get_value_codes(page, d, width, cell, lane, codes);
    decode_codes(*p.layer.codec, width, codes, x);
    for (int bit = 1; bit < n_points / 16; bit *= 2) hadamard_lanes(x, bit, lane);
    if (lane >= n_used || positions[cell] == kEmptyCell) continue;
    const float norm =
        p.layer.codec->value_norms.norms[page[head.value_bytes - kCells + cell]] * head.v_rms * scale;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      tile[cell * d + 16 * lane + i] = __float2half_rn(norm * p.layer.codec->value_signs[16 * lane + i] * x[i]);
    }
  }
}

__device__ void copy_lines(void* to, const void* from, int n_bytes) {
  for (int i = static_cast<int>(threadIdx.x); i < n_bytes / 16; i += kThreads) {
    static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
  }
}

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
  for (int i = static_cast<int>(threadIdx.x); i < kCells * d / 2; i += kThreads) {
    reinterpret_cast<std::uint32_t*>(tile)[i] = 0;
  }
  __syncthreads();
  if (key) {
    decode_keys(p, head, shared, positions, tile);
  } else {
    decode_values(p, head, shared, positions, tile);
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
  check(cudaFuncSetAttribute(dequantize_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "reserve shared memory for dequantize");
  const dim3 grid(static_cast<unsigned>((n_cells + kCells - 1) / kCells), impl.view.n_kv_heads, 2);
  dequantize_kernel<<<grid, kThreads, shared_bytes, stream>>>(p);
  check_launch("dequantize");
}

}  // namespace gtq::cuda
