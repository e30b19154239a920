// Arguments of the decode kernel and the layout of its shared memory.
#pragma once

#include <vector_types.h>

#include "cuda/tables.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

// Most (row, head of the group) pairs of a thread block: 4, 8 or 16 (decode_tile.cuh, decode_team.cuh). Teams
// of 16 with value heads of 256 dims do not fit shared memory.
inline constexpr int kNarrowPairs = 4, kWidePairs = 8, kTeamPairs = 16;
GTQ_HD constexpr int most_pairs(int head_dim_v) { return head_dim_v <= 128 ? kTeamPairs : kWidePairs; }

inline constexpr int kSummaryBytes = 16;
inline constexpr int kMostStaticSharedBytes = 2560;  // of a decode kernel
inline constexpr int kTermStride = kCells + 4;       // floats of a term of a page (decode_terms.cuh)

// Warps that share the values of their pages (decode_team.cuh). With one tile a warp is alone, with two its
// registers hold the sums of 32 dims only.
GTQ_HD constexpr int team_warps(int head_dim_v, int n_pairs) {
  return n_pairs == kTeamPairs ? head_dim_v / 32 : 1;
}

// Warps of a thread block: as many as registers allow, whole teams.
GTQ_HD constexpr int most_warps(int head_dim_v, int n_pairs) {
  if (head_dim_v > 128) return 8;
  return n_pairs == kNarrowPairs || (head_dim_v <= 64 && n_pairs == kWidePairs) ? 16 : 12;
}

// A stage holds [key page | value page | summary]. The weights of a team's pages take the place of the keys.
inline constexpr int kWeightBytes = 128;  // of a page and pair
GTQ_HD constexpr int value_offset(int key_bytes, int n_pairs) {
  const int weights = n_pairs * kWeightBytes;
  return n_pairs == kTeamPairs && key_bytes < weights ? weights : key_bytes;
}

// A warp's ring: one or two stages, then their barriers.
GTQ_HD constexpr int warp_ring_bytes(int n_stages, int stage_bytes) { return n_stages * stage_bytes + 16; }

struct WorkspaceHeader {
  std::uint32_t epoch, n_finished;
  std::uint32_t unused[62];
};

// Division by a number known at the launch; exact while x * n is below 2^32.
struct Divider {
  int n;
  std::uint32_t inverse;  // 2^32 / n, rounded up; 0 for n = 1

#ifdef __CUDACC__
  __device__ __forceinline__ int quotient(int x) const {
    return n == 1 ? x : static_cast<int>(__umulhi(static_cast<std::uint32_t>(x), inverse));
  }
#endif
};

inline Divider make_divider(int n) { return {n, ~0u / static_cast<std::uint32_t>(n) + 1}; }

struct DecodeParams {
  DecodeCall call;  // call.layer is the host's
  LayerView layer;
  Luts luts;
  float logit_scale;        // sm_scale * log2(e)
  int group;                // query heads per KV head
  int span_pairs, n_spans;  // (row, head) pairs of a thread block; spans of all of a KV head
  Divider by_group, by_spans, by_splits;
  int n_splits, n_warps, n_stages, stage_bytes;
  int smem_scratch, smem_query, smem_mean, smem_block;  // byte offsets; the ring is at 0
  int scratch_bytes;                                    // per warp
  int mean_lanes;  // float4s of the coefficients of a mean and tile: 4 * its rows * largest n_mean_groups
  WorkspaceHeader* header;
  uint2* partials;  // {value, tag}; [batch][kv_head][span][split][span_pairs][head_dim_v + 2]
};

// What a thread block attends.
struct BlockPlace {
  int split, kv_head, span, batch;
  int first_pair, n_pairs;  // (row, head) pairs of the span
};

}  // namespace gtq::cuda
