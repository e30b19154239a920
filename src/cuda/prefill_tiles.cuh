// Makes the tiles of a chunk from its pages, and says what each is to the rows of a mask. Tiles as
// prefill_params.h has them; their numbers are those of dequantize.cuh, zeros for empty cells and behind the
// end of the sequence.
#pragma once

#include "cuda/dequantize.cuh"
#include "cuda/prefill_params.h"

namespace gtq::cuda {

inline constexpr int kTileThreads = 256;

struct SlabTile {
  std::uint8_t* data;
  __device__ __half& at(int cell, int dim) const {
    return reinterpret_cast<__half*>(data + slab_byte(cell, dim & ~7, kCells))[dim & 7];
  }
};

// The page with number `index` in the sequence.
__device__ __forceinline__ long long page_of(const PrefillParams& p, long long index) {
  return p.call.pages != nullptr ? p.call.pages[index] : p.call.first_page + index;
}

// positions: of the 64 cells of a page, kEmptyCell behind the end of the sequence.
__device__ __forceinline__ void load_positions(const PrefillParams& p, long long page, long long cell,
                                               int* positions) {
  if (threadIdx.x >= kCells) return;
  const long long at = cell + threadIdx.x;
  int position = kEmptyCell;
  if (at < p.call.kv_len) {
    position = p.call.cache.positions != nullptr ? p.call.cache.positions[page * kCells + threadIdx.x]
                                                 : static_cast<int>(at);
  }
  positions[threadIdx.x] = position;
}

// Grid: (page of the chunk, filled up to whole tiles; kv_head; 0 keys | 1 values).
template <int kDims>
__global__ void __launch_bounds__(kTileThreads) prefill_tiles_kernel(const __grid_constant__ PrefillParams p) {
  constexpr int kKeys = tile_keys(kDims), kPages = kKeys / kCells, kSlabs = kDims / kSlabDims;
  constexpr int kRunBytes = kCells * kSlabRowBytes;  // of a slab of the page
  extern __shared__ __align__(128) std::uint8_t shared[];
  __shared__ int positions[kCells];
  const HeadTable head = p.layer.heads[blockIdx.y];
  const bool is_key = blockIdx.z == 0;
  const int tile = static_cast<int>(blockIdx.x) / kPages, part = static_cast<int>(blockIdx.x) % kPages;
  const long long cell = p.first_cell + static_cast<long long>(blockIdx.x) * kCells;
  const long long page = cell < p.call.kv_len ? page_of(p, cell / kCells) : 0;
  const SlabTile slabs{shared};
  load_positions(p, page, cell, positions);
  clear_lines(shared, kSlabs * kRunBytes);
  if (cell < p.call.kv_len) {
    std::uint8_t* bytes = shared + kSlabs * kRunBytes;
    if (is_key) {
      copy_lines(bytes, p.call.cache.key_pages + page * p.layer.key_page_bytes + head.key_offset,
                 static_cast<int>(head.key_bytes));
      __syncthreads();
      dequantize_keys(p.layer, head, bytes, positions, slabs);
    } else {
      copy_lines(bytes, p.call.cache.value_pages + page * p.layer.value_page_bytes + head.value_offset,
                 static_cast<int>(head.value_bytes));
      __syncthreads();
      dequantize_values(p.layer, head, bytes, positions, slabs);
    }
  }
  __syncthreads();
  std::uint8_t* to = p.tiles +
                     (static_cast<long long>(blockIdx.y) * p.n_tiles + tile) * 2 * half_tile_bytes(kDims) +
                     (is_key ? 0 : half_tile_bytes(kDims)) + part * kRunBytes;
#pragma unroll
  for (int slab = 0; slab < kSlabs; ++slab) {
    copy_lines(to + slab * kKeys * kSlabRowBytes, shared + slab * kRunBytes, kRunBytes);
  }
  if (is_key && blockIdx.y == 0 && threadIdx.x < kCells) {
    const std::uint32_t bits = __ballot_sync(~0u, positions[threadIdx.x] != kEmptyCell);
    if (threadIdx.x % 32 == 0) {
      reinterpret_cast<std::uint32_t*>(p.present + tile)[part * (kCells / 32) + threadIdx.x / 32] = bits;
    }
  }
}

// Grid: (query tile, tile). What the mask leaves of a tile.
template <int kDims>
__global__ void __launch_bounds__(kTileThreads) prefill_kinds_kernel(const __grid_constant__ PrefillParams p) {
  constexpr int kKeys = tile_keys(kDims);
  const RowSpan rows = rows_of_tile(p, static_cast<int>(blockIdx.x));
  const long long first_cell = p.first_cell + static_cast<long long>(blockIdx.y) * kKeys;
  const long long left = p.call.kv_len - first_cell;
  const int n_cells = left < kKeys ? static_cast<int>(left) : kKeys;
  bool any_seen = false, all_plain = true;
  for (int i = static_cast<int>(threadIdx.x); i < (rows.last - rows.first + 1) * kKeys; i += kTileThreads) {
    if (i % kKeys >= n_cells) continue;
    const std::uint16_t bias =
        p.call.mask[(rows.first + i / kKeys) * p.call.mask_row_stride + first_cell + i % kKeys];
    any_seen |= bias != 0xfc00;  // f16 -inf
    all_plain &= (bias & 0x7fff) == 0;
  }
  const bool is_seen = __syncthreads_or(any_seen) != 0, is_plain = __syncthreads_and(all_plain) != 0;
  if (threadIdx.x == 0) {
    p.kinds[static_cast<long long>(blockIdx.x) * p.n_tiles + blockIdx.y] = !is_seen   ? TileKind::kUnseen
                                                                           : is_plain ? TileKind::kSeen
                                                                                      : TileKind::kMixed;
  }
}

}  // namespace gtq::cuda
