// Logits of a page as integers: sum over coded slots of (high, low) query bytes times key levels (products:
// decode_tile.cuh). Quant_groups of one width go in pairs (k32), a last one alone (k16). Exact: |acc| < 2^22
// per part.
#pragma once

#include "cuda/codebook.cuh"
#include "cuda/decode_tile.cuh"

namespace gtq::cuda {

template <typename Tile, int kTiles>
using Scores = int[kTiles][Tile::kProducts][4];

// counts: DecodeScalars::group_counts. query: [quant_group][tile][32 lanes].
template <int B, typename Tile, int kTiles>
__device__ __forceinline__ void add_groups(std::uint32_t counts, const std::uint8_t*& unit,
                                           const typename Tile::Query*& query, const Luts& luts, int lane,
                                           Scores<Tile, kTiles>& acc) {
  constexpr std::uint32_t kOne = 1u << (5 * (B - 1));
  using Query = typename Tile::Query;
#pragma unroll 1
  for (std::uint32_t left = counts & (30 * kOne); left != 0; left -= 2 * kOne) {
    std::uint32_t wa[B], wb[B], a[8], b[8];
    load_words<B>(unit, lane, wa);
    load_words<B>(unit + 128 * B, lane, wb);
    Query qa[kTiles], qb[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      qa[tile] = query[tile * 32 + lane];
      qb[tile] = query[(kTiles + tile) * 32 + lane];
    }
    expand<B>(wa, luts, a);
    expand<B>(wb, luts, b);
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) Tile::score(acc[tile], qa[tile], qb[tile], a, b);
    unit += 256 * B;
    query += 64 * kTiles;
  }
  if ((counts & kOne) == 0) return;
  std::uint32_t w[B], a[8];
  load_words<B>(unit, lane, w);
  Query q[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) q[tile] = query[tile * 32 + lane];
  expand<B>(w, luts, a);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) Tile::score(acc[tile], q[tile], a);
  unit += 128 * B;
  query += 32 * kTiles;
}

template <typename Tile, int kTiles>
__device__ __forceinline__ void score_page(std::uint32_t counts, const std::uint8_t* unit,
                                           const typename Tile::Query* query, const Luts& luts, int lane,
                                           Scores<Tile, kTiles>& acc) {
#pragma unroll
  for (int i = 0; i < kTiles * Tile::kProducts * 4; ++i) {
    acc[i / 4 / Tile::kProducts][i / 4 % Tile::kProducts][i % 4] = kScoreZero;
  }
  add_groups<1, Tile, kTiles>(counts, unit, query, luts, lane, acc);
  add_groups<2, Tile, kTiles>(counts, unit, query, luts, lane, acc);
  add_groups<3, Tile, kTiles>(counts, unit, query, luts, lane, acc);
  add_groups<4, Tile, kTiles>(counts, unit, query, luts, lane, acc);
  add_groups<5, Tile, kTiles>(counts, unit, query, luts, lane, acc);
  add_groups<6, Tile, kTiles>(counts, unit, query, luts, lane, acc);
}

}  // namespace gtq::cuda
