// Arguments of the decode kernel and the layout of its shared memory.
#pragma once

#include <vector_types.h>

#include "cuda/tables.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

inline constexpr int kRows = 8;  // query rows of a thread block: (row, head of the group) pairs
inline constexpr int kSummaryBytes = 16;
inline constexpr int kTermFloats = 3 * kCells;  // of a page (decode_terms.cuh)

// Warps of a thread block: as many as registers for the sums of values allow.
GTQ_HD constexpr int most_warps(int head_dim_v) { return head_dim_v <= 64 ? 16 : head_dim_v <= 128 ? 12 : 8; }

// A warp's ring: one or two stages, then their barriers.
GTQ_HD constexpr int warp_ring_bytes(int n_stages, int stage_bytes) { return n_stages * stage_bytes + 16; }

struct WorkspaceHeader {
  std::uint32_t epoch, n_finished;
  std::uint32_t unused[62];
};

struct DecodeParams {
  LayerView layer;
  Luts luts;
  const std::uint8_t *key_pages, *value_pages;
  const PageSummary* summaries;   // or null
  const std::int32_t* positions;  // or null
  const std::int32_t *indptr, *indices, *last_page_len;
  long long kv_len, pages_per_sequence;
  const float* q;
  long long q_batch_stride, q_row_stride, q_head_stride;
  float* out;
  long long out_batch_stride, out_row_stride, out_head_stride;
  const std::uint16_t* mask;
  long long mask_batch_stride, mask_row_stride;
  const float* sinks;
  float logit_scale;  // sm_scale * log2(e)
  float softcap;      // 0 = off
  float alibi_max_bias;
  int n_q_heads, group, n_rows, n_tiles;  // group: query heads per KV head; tiles of 8 (row, head) pairs
  int n_splits, n_warps, n_stages, stage_bytes;
  int smem_scratch, smem_query, smem_raw, smem_mean, smem_block;  // byte offsets; the ring is at 0
  int scratch_bytes;                                              // per warp
  int mean_lanes;  // float4s of one mean's coefficients: 32 * largest n_mean_groups
  WorkspaceHeader* header;
  uint2* partials;  // {value, tag}; [batch][kv_head][tile][split][8 rows][head_dim_v + 2]
};

}  // namespace gtq::cuda
