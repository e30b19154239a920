// Integer logits of a page: acc[r][e + 2 part] = sum over coded slots of (high, low) query bytes times key
// levels, for row g and key slot 8 r + 2 t + e. 8 rows of high bytes and 8 of low bytes fill the 16 rows of an
// 8-bit mma; quant_groups of one width go in pairs (k32), a last one alone (k16). Exact: |acc| < 2^22 per part.
#pragma once

#include "cuda/codebook.cuh"

namespace gtq::cuda {

// counts: DecodeScalars::group_counts.
template <int B>
__device__ __forceinline__ void add_groups(std::uint32_t counts, const std::uint8_t*& unit, const uint2*& query,
                                           const Luts& luts, int lane, int (&acc)[8][4]) {
  constexpr std::uint32_t kOne = 1u << (5 * (B - 1));
#pragma unroll 1
  for (std::uint32_t left = counts & (30 * kOne); left != 0; left -= 2 * kOne) {
    std::uint32_t wa[B], wb[B], a[8], b[8];
    load_words<B>(unit, lane, wa);
    load_words<B>(unit + 128 * B, lane, wb);
    const uint2 qa = query[lane], qb = query[32 + lane];
    expand<B>(wa, luts, a);
    expand<B>(wb, luts, b);
#pragma unroll
    for (int r = 0; r < 8; ++r) mma_s8(acc[r], qa.x, qa.y, qb.x, qb.y, a[r], b[r]);
    unit += 256 * B;
    query += 64;
  }
  if ((counts & kOne) == 0) return;
  std::uint32_t w[B], a[8];
  load_words<B>(unit, lane, w);
  const uint2 q = query[lane];
  expand<B>(w, luts, a);
#pragma unroll
  for (int r = 0; r < 8; ++r) mma_s8_k16(acc[r], q.x, q.y, a[r]);
  unit += 128 * B;
  query += 32;
}

__device__ __forceinline__ void score_page(std::uint32_t counts, const std::uint8_t* unit, const uint2* query,
                                           const Luts& luts, int lane, int (&acc)[8][4]) {
#pragma unroll
  for (int r = 0; r < 8; ++r) acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = 0;
  add_groups<1>(counts, unit, query, luts, lane, acc);
  add_groups<2>(counts, unit, query, luts, lane, acc);
  add_groups<3>(counts, unit, query, luts, lane, acc);
  add_groups<4>(counts, unit, query, luts, lane, acc);
  add_groups<5>(counts, unit, query, luts, lane, acc);
  add_groups<6>(counts, unit, query, luts, lane, acc);
}

}  // namespace gtq::cuda
