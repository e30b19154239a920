// Codes of a page in shared memory -> keys and values of its cells in a tile of f16, also in shared memory.
//
//   keys    residual + mean key turned to the cell's position, summed in f32 and rounded once: as exact as an
//           f16 key can be
//   values  rounded once
// A tile says where a dim of a cell stands: __half& at(cell, dim). Empty cells are left as they are. Accuracy:
// f16 rounding; sine and cosine 2^-20. Reference: src/reference/codec.cc.
#pragma once

#include <cuda_fp16.h>

#include "cuda/hadamard.cuh"
#include "cuda/page_codes.cuh"
#include "cuda/phase.cuh"

namespace gtq::cuda {

__device__ __forceinline__ void dequantize_codes(const CodecTable& codec, int width,
                                                 const std::uint8_t (&codes)[16], float (&x)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i] = codec.centroids[width - 1][codes[i]];
  hadamard_own(x);
}

// One quant_group of the key of a cell.
template <typename Tile>
__device__ void dequantize_key_group(const LayerView& layer, const HeadTable& head, const std::uint8_t* page,
                                     int cell, int group, int position, const Tile& tile) {
  const std::uint8_t norm_byte = page[head.key_bytes - kCells + cell];
  const int width = head.widths[group], d = layer.head_dim_k;
  std::uint8_t codes[16];
  float x[16];
  get_key_codes(page + 128 * sum_of_widths(head.widths, group), width, cell, codes);
  dequantize_codes(*layer.codec, width, codes, x);
  const float norm = layer.codec->key_norms.norms[norm_byte & 127] * 0.25f;
  const float* means = head.mean_keys + (norm_byte >> 7) * d;
#pragma unroll
  for (int i = 0; i < 16; i += 2) {
    const int slot = 16 * group + i, dim0 = head.dims[slot], dim1 = head.dims[slot + 1];
    float k0 = norm * layer.codec->key_signs[slot] * x[i] / head.scale[slot];
    float k1 = norm * layer.codec->key_signs[slot + 1] * x[i + 1] / head.scale[slot + 1];
    if (head.pair_centred[slot / 2] != 0) {
      const float2 turn = phase(reinterpret_cast<const uint2*>(head.pair_half_turns)[slot / 2],
                                2 * static_cast<std::uint32_t>(position));
      const float m0 = means[dim0], m1 = means[dim1];
      k0 += m0 * turn.x - m1 * turn.y;
      k1 += m0 * turn.y + m1 * turn.x;
    }
    tile.at(cell, dim0) = __float2half_rn(k0);
    tile.at(cell, dim1) = __float2half_rn(k1);
  }
}

// By all threads of the block. positions: of the page's cells, kEmptyCell where one holds no token.
template <typename Tile>
__device__ void dequantize_keys(const LayerView& layer, const HeadTable& head, const std::uint8_t* page,
                                const int* positions, const Tile& tile) {
  const int n_items = kCells * layer.head_dim_k / 16;
  for (int i = static_cast<int>(threadIdx.x); i < n_items; i += static_cast<int>(blockDim.x)) {
    const int cell = i % kCells;
    if (positions[cell] != kEmptyCell) {
      dequantize_key_group(layer, head, page, cell, i / kCells, positions[cell], tile);
    }
  }
}

// Likewise; n_lanes lanes of a warp do one value.
template <typename Tile>
__device__ void dequantize_values(const LayerView& layer, const HeadTable& head, const std::uint8_t* page,
                                  const int* positions, const Tile& tile) {
  const int d = layer.head_dim_v, n_used = d / 16, width = layer.v_width, n_points = d & -d;
  int n_lanes = 1;
  while (n_lanes < n_used) n_lanes *= 2;
  const int lane = static_cast<int>(threadIdx.x) % n_lanes, n_at_once = static_cast<int>(blockDim.x) / n_lanes;
  const float scale = rsqrtf(static_cast<float>(n_points));
  for (int cell = static_cast<int>(threadIdx.x) / n_lanes; cell < kCells; cell += n_at_once) {
    std::uint8_t codes[16] = {};
    float x[16];
    if (lane < n_used) get_value_codes(page, d, width, cell, lane, codes);
    dequantize_codes(*layer.codec, width, codes, x);
    for (int bit = 1; bit < n_points / 16; bit *= 2) hadamard_lanes(x, bit, lane);
    if (lane >= n_used || positions[cell] == kEmptyCell) continue;
    const float norm =
        layer.codec->value_norms.norms[page[head.value_bytes - kCells + cell]] * head.v_rms * scale;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      tile.at(cell, 16 * lane + i) = __float2half_rn(norm * layer.codec->value_signs[16 * lane + i] * x[i]);
    }
  }
}

// n_bytes: a multiple of 16.
__device__ __forceinline__ void copy_lines(void* to, const void* from, int n_bytes) {
  for (int i = static_cast<int>(threadIdx.x); i < n_bytes / 16; i += static_cast<int>(blockDim.x)) {
    static_cast<uint4*>(to)[i] = static_cast<const uint4*>(from)[i];
  }
}

__device__ __forceinline__ void clear_lines(void* to, int n_bytes) {
  for (int i = static_cast<int>(threadIdx.x); i < n_bytes / 16; i += static_cast<int>(blockDim.x)) {
    static_cast<uint4*>(to)[i] = make_uint4(0, 0, 0, 0);
  }
}

}  // namespace gtq::cuda
