// Integer logits of a page: acc[tile][r][e + 2 part] = sum over coded slots of (high, low) query bytes times
// key levels, for row g of the tile and key slot 8 r + 2 t + e. 8 rows of high bytes and 8 of low bytes fill
// the 16 rows of an 8-bit mma; quant_groups of one width go in pairs (k32), a last one alone (k16). Exact:
// |acc| < 2^22 per part.
#pragma once

#include "cuda/codebook.cuh"

namespace gtq::cuda {

// Query fragments of a quant_group.
template <int kTiles>
__device__ __forceinline__ void load_query(const uint2* query, int lane, uint2 (&q)[kTiles]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) q[tile] = query[tile * 32 + lane];
}

// counts: DecodeScalars::group_counts.
template <int B, int kTiles>
__device__ __forceinline__ void add_groups(std::uint32_t counts, const std::uint8_t*& unit, const uint2*& query,
                                           const Luts& luts, int lane, int (&acc)[kTiles][8][4]) {
  constexpr std::uint32_t kOne = 1u << (5 * (B - 1));
#pragma unroll 1
  for (std::uint32_t left = counts & (30 * kOne); left != 0; left -= 2 * kOne) {
    std::uint32_t wa[B], wb[B], a[8], b[8];
    load_words<B>(unit, lane, wa);
    load_words<B>(unit + 128 * B, lane, wb);
    uint2 qa[kTiles], qb[kTiles];
    load_query(query, lane, qa);
    load_query(query + 32 * kTiles, lane, qb);
    expand<B>(wa, luts, a);
    expand<B>(wb, luts, b);
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        mma_s8(acc[tile][r], qa[tile].x, qa[tile].y, qb[tile].x, qb[tile].y, a[r], b[r]);
      }
    }
    unit += 256 * B;
    query += 64 * kTiles;
  }
  if ((counts & kOne) == 0) return;
  std::uint32_t w[B], a[8];
  load_words<B>(unit, lane, w);
  uint2 q[kTiles];
  load_query(query, lane, q);
  expand<B>(w, luts, a);
#pragma unroll
  for (int r = 0; r < 8; ++r) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) mma_s8_k16(acc[tile][r], q[tile].x, q[tile].y, a[r]);
  }
  unit += 128 * B;
  query += 32 * kTiles;
}

template <int kTiles>
__device__ __forceinline__ void score_page(std::uint32_t counts, const std::uint8_t* unit, const uint2* query,
                                           const Luts& luts, int lane, int (&acc)[kTiles][8][4]) {
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int r = 0; r < 8; ++r) acc[tile][r][0] = acc[tile][r][1] = acc[tile][r][2] = acc[tile][r][3] = 0;
  }
  add_groups<1>(counts, unit, query, luts, lane, acc);
  add_groups<2>(counts, unit, query, luts, lane, acc);
  add_groups<3>(counts, unit, query, luts, lane, acc);
  add_groups<4>(counts, unit, query, luts, lane, acc);
  add_groups<5>(counts, unit, query, luts, lane, acc);
  add_groups<6>(counts, unit, query, luts, lane, acc);
}

}  // namespace gtq::cuda
