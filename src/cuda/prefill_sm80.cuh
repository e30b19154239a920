// Prefill attention of a chunk on any GPU since sm_80: products of single warps (mma m16n8k16), 16-byte
// asynchronous copies.
//
// Grid: (query tile, kv_head). 8 warps with 16 of the 128 query rows each. A tile is taken in two steps of half
// of its keys; shared memory holds the queries and the keys and values of one step. While logits are computed
// the values are on their way, while values are added the next keys. Accuracy as prefill_sm90.cuh. Reference:
// src/reference/attention.cc.
#pragma once

#include "cuda/prefill_softmax.cuh"

namespace gtq::cuda {

inline constexpr int kPrefillThreadsSm80 = 256;

GTQ_HD constexpr int step_keys(int dims) { return tile_keys(dims) / 2; }

template <int kDims>
constexpr int prefill_shared_bytes_sm80() {
  return (kQueryTile + 2 * step_keys(kDims)) * kDims * 2;
}

// Four 8x8 tiles of halves; lane l gives the row l % 8 of tile l / 8.
__device__ __forceinline__ void load_fragments(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_fragments_transposed(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// Step `step` of the keys or values of a tile -> [slab][step_keys][64 dims].
template <int kDims>
__device__ __forceinline__ void copy_step(const std::uint8_t* half_tile, int step, std::uint32_t shared) {
  constexpr int kRows = step_keys(kDims), kRunBytes = kRows * kSlabRowBytes;
#pragma unroll
  for (int slab = 0; slab < kDims / kSlabDims; ++slab) {
    const std::uint8_t* from = half_tile + (slab * tile_keys(kDims) + step * kRows) * kSlabRowBytes;
    for (int i = static_cast<int>(threadIdx.x) * 16; i < kRunBytes; i += kPrefillThreadsSm80 * 16) {
      copy_16(shared + slab * kRunBytes + i, from + i);
    }
  }
  copy_commit();
}

// s = q k^T of a warp's 16 rows.
template <int kDims>
__device__ __forceinline__ void multiply_step(std::uint32_t queries, int first_row, std::uint32_t keys,
                                              int lane, float (&s)[step_keys(kDims) / 2]) {
  constexpr int kRows = step_keys(kDims);
#pragma unroll
  for (int i = 0; i < kRows / 2; ++i) s[i] = 0.0f;
#pragma unroll
  for (int step = 0; step < kDims / 16; ++step) {
    std::uint32_t a[4];
    load_fragments(a, queries + slab_byte(first_row + lane % 16, 16 * step + 8 * (lane / 16), kQueryTile));
#pragma unroll
    for (int j = 0; j < kRows / 16; ++j) {
      std::uint32_t b[4];
      load_fragments(
          b, keys + slab_byte(16 * j + 8 * (lane / 16) + lane % 8, 16 * step + 8 * (lane / 8 % 2), kRows));
      float(&pair)[8] = *reinterpret_cast<float(*)[8]>(s + 8 * j);
      mma_f16(*reinterpret_cast<float(*)[4]>(pair), a[0], a[1], a[2], a[3], b[0], b[1]);
      mma_f16(*reinterpret_cast<float(*)[4]>(pair + 4), a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

template <int kDims>
__device__ __forceinline__ void add_step(const std::uint32_t (&weights)[step_keys(kDims) / 4],
                                         std::uint32_t values, int lane, float (&o)[kDims / 2]) {
  constexpr int kRows = step_keys(kDims);
#pragma unroll
  for (int step = 0; step < kRows / 16; ++step) {
    const std::uint32_t* a = weights + 4 * step;
#pragma unroll
    for (int j = 0; j < kDims / 16; ++j) {
      std::uint32_t b[4];
      load_fragments_transposed(b, values + slab_byte(16 * step + lane % 16, 16 * j + 8 * (lane / 16), kRows));
      mma_f16(*reinterpret_cast<float(*)[4]>(o + 8 * j), a[0], a[1], a[2], a[3], b[0], b[1]);
      mma_f16(*reinterpret_cast<float(*)[4]>(o + 8 * j + 4), a[0], a[1], a[2], a[3], b[2], b[3]);
    }
  }
}

template <int kDims, bool kShaped>
__global__ void __launch_bounds__(kPrefillThreadsSm80, 1)
    prefill_sm80_kernel(const __grid_constant__ PrefillParams p) {
  constexpr int kKeys = tile_keys(kDims), kStepKeys = step_keys(kDims), kHalfBytes = half_tile_bytes(kDims);
  extern __shared__ __align__(128) std::uint8_t shared[];
  __shared__ TileEntry list[kMostChunkTiles];
  __shared__ int n_entries;
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (warp == 0) {
    const int n = list_tiles<kKeys>(p, query_tile, lane, list);
    if (lane == 0) n_entries = n;
  }
  load_queries<kDims>(p, kv_head, query_tile * kQueryTile, kPrefillThreadsSm80, shared);
  __syncthreads();
  const std::uint32_t queries = shared_address(shared), keys = queries + kQueryTile * kDims * 2;
  const std::uint32_t values = keys + kStepKeys * kDims * 2;
  const std::uint8_t* tiles = p.tiles + static_cast<long long>(kv_head) * p.n_tiles * 2 * kHalfBytes;
  const auto tile_at = [&](int i) { return tiles + static_cast<long long>(list[i].tile()) * 2 * kHalfBytes; };

  const LaneRows rows{kv_head, query_tile * kQueryTile + warp * 16, lane};
  RowState state;
  float o[kDims / 2];
  load_state(p, rows, state, o);
  if (n_entries > 0) copy_step<kDims>(tile_at(0), 0, keys);
#pragma unroll 1
  for (int i = 0; i < n_entries; ++i) {
#pragma unroll
    for (int step = 0; step < kKeys / kStepKeys; ++step) {
      float s[kStepKeys / 2];
      std::uint32_t weights[kStepKeys / 4];
      copy_step<kDims>(tile_at(i) + kHalfBytes, step, values);
      copy_wait<1>();
      __syncthreads();
      multiply_step<kDims>(queries, warp * 16, keys, lane, s);
      __syncthreads();
      if (step + 1 < kKeys / kStepKeys) {
        copy_step<kDims>(tile_at(i), step + 1, keys);
      } else if (i + 1 < n_entries) {
        copy_step<kDims>(tile_at(i + 1), 0, keys);
      } else {
        copy_commit();
      }
      const bool is_mixed = list[i].is_mixed();
      if (is_mixed) mixed_logits<kStepKeys, kShaped>(p, rows, list[i].tile(), kKeys, step * kStepKeys, s);
      rescale(o, weigh(s, is_mixed ? 1.0f : p.call.sm_scale * kLog2E, state));
      pack_weights(s, weights);
      copy_wait<1>();
      __syncthreads();
      add_step<kDims>(weights, values, lane, o);
      __syncthreads();
    }
  }
  store_state(p, rows, state, o);
}

}  // namespace gtq::cuda
