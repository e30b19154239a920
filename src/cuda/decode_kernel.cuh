// Attention of a span of 4, 8 or 16 (row, head) pairs of one KV head over packed pages.
//
// Grid: (split, kv_head * span, sequence); a span is one or two tiles, pair = row * group + head in the group.
// A thread block takes the pages n split / n_splits .. n (split + 1) / n_splits of a sequence, its warps every
// n_warps-th of them, each with a private ring of stages and no block barrier in between. Per page a warp
// computes integer logits (decode_scores), adds the mean-key term (decode_mean), makes fixed-point weights
// (decode_softmax) and integer sums of values (decode_values; with two tiles as one of a team, decode_team).
// decode_tile has what a lane holds. Accuracy: relative L2 of a row under 1e-3; 15-bit queries, 16-bit weights,
// exact levels, f32 norms and sums. Reference: src/reference/attention.cc.
#pragma once

#include "cuda/decode_mean.cuh"
#include "cuda/decode_merge.cuh"
#include "cuda/decode_query.cuh"
#include "cuda/decode_scores.cuh"
#include "cuda/decode_values.cuh"
#include "cuda/logits.cuh"
#include "cuda/page_copy.cuh"

namespace gtq::cuda {

struct SequencePages {
  long long first;  // into indices, or the first page
  int n_pages;
  long long n_keys;
};

__device__ __forceinline__ SequencePages sequence_pages(const DecodeParams& p, int batch) {
  if (p.call.sequences.indptr == nullptr) {
    return {batch * p.call.sequences.pages_per_sequence,
            static_cast<int>((p.call.sequences.kv_len + kCells - 1) / kCells), p.call.sequences.kv_len};
  }
  const int first = p.call.sequences.indptr[batch], n = p.call.sequences.indptr[batch + 1] - first;
  return {first, n,
          n == 0 ? 0 : static_cast<long long>(n - 1) * kCells + p.call.sequences.last_page_len[batch]};
}

__device__ __forceinline__ std::uint32_t physical_page(const DecodeParams& p, long long first, int i) {
  return static_cast<std::uint32_t>(p.call.sequences.indices == nullptr ? first + i
                                                                        : p.call.sequences.indices[first + i]);
}

// What is known of a page besides its bytes.
struct PageView {
  int index;  // in the sequence
  std::uint64_t valid;
  int start;
  bool regular;
};

__device__ __forceinline__ PageView view_page(const DecodeParams& p, const std::uint8_t* summary, int index,
                                              long long n_keys) {
  PageView view{index, ~0ull, index * kCells, true};
  if (p.call.cache.summaries != nullptr) {
    const PageSummary s = *reinterpret_cast<const PageSummary*>(summary);
    view.valid = s.occupied;
    view.start = s.start;
    view.regular = s.regular != 0;
  }
  const long long left = n_keys - static_cast<long long>(index) * kCells;
  if (left < kCells) view.valid &= (1ull << left) - 1;
  return view;
}

// f(i, norm of key i of the lane)
template <typename Tile, typename F>
__device__ __forceinline__ void for_norms(const float* key_norms, int lane, F f) {
#pragma unroll
  for (int i = 0; i < Tile::kKeys; i += 4) {
    const float4 norm = load_four(key_norms, Tile::column(lane, i / 8), i / 4 % 2);
    f(i, norm.x), f(i + 1, norm.y), f(i + 2, norm.z), f(i + 3, norm.w);
  }
}

// v = v * key norm + offset + mean-key term. norm_bytes: of load_terms.
template <typename Tile, int kTiles>
__device__ __forceinline__ void add_mean(const DecodeParams& p, const MeanTables& mean, const PageView& view,
                                         long long first, std::uint32_t norm_bytes, const float* key_norms,
                                         const float (&offset)[kTiles], int lane,
                                         float (&v)[kTiles][Tile::kKeys]) {
  if (view.regular && mean.n_fast_groups > 0) page_phases(mean, view.start, lane);
  const bool any0 = __any_sync(~0u, (norm_bytes & 0x8080u) != 0x8080u);
  const bool any1 = __any_sync(~0u, (norm_bytes & 0x8080u) != 0);
#pragma unroll 1
  for (int c = any0 ? 0 : 1; c < (any1 ? 2 : 1); ++c) {
    Bias<Tile> bias[kTiles];
    if (view.regular) {
      regular_bias<Tile>(mean, c, view.start, offset, lane, bias);
    } else {
      const auto page = static_cast<std::uint64_t>(physical_page(p, first, view.index));
      irregular_bias<Tile>(mean, c, p.call.cache.positions + page * kCells, offset, lane, bias);
    }
    const auto add = [&](int i, float norm) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        v[tile][i] = fmaf(v[tile][i], fabsf(norm), Tile::bias(bias[tile], i));
      }
    };
    if (any0 && any1) {
      for_norms<Tile>(key_norms, lane, [&](int i, float norm) {
        if ((norm > 0.0f) == (c == 1)) add(i, norm);
      });
    } else {
      for_norms<Tile>(key_norms, lane, add);
    }
  }
}

// Cell of key i of a lane.
template <typename Tile>
__device__ __forceinline__ int cell_of_key(int lane, int i) {
  return cell_of_slot(8 * (i % 8) + Tile::column(lane, i / 8));
}

template <typename Tile>
__device__ __forceinline__ void exclude(std::uint64_t valid, int lane, float (&v)[Tile::kKeys]) {
#pragma unroll
  for (int i = 0; i < Tile::kKeys; ++i) {
    if ((valid >> cell_of_key<Tile>(lane, i) & 1) == 0) v[i] = kExcluded;
  }
}

// Logit softcap, then slope times mask, of the lane's row of a tile.
template <typename Tile>
__device__ __forceinline__ void shape_logits(const DecodeParams& p, const BlockPlace& at, const PageView& view,
                                             int row, float slope, float offset, int lane,
                                             float (&v)[Tile::kKeys]) {
  if (p.call.logit_softcap > 0.0f) {
    const float cap = p.call.logit_softcap * kLog2E;
#pragma unroll
    for (float& x : v) x = cap * tanhf((x - offset) / cap) + offset;
  }
  if (p.call.mask == nullptr || row >= at.n_pairs) return;
  const std::uint16_t* mask = p.call.mask + at.batch * p.call.mask_batch_stride +
                              p.by_group.quotient(at.first_pair + row) * p.call.mask_row_stride +
                              static_cast<long long>(view.index) * kCells;
#pragma unroll
  for (int i = 0; i < Tile::kKeys; ++i) {
    const int cell = cell_of_key<Tile>(lane, i);
    if ((view.valid >> cell & 1) == 0) continue;
    const float bias = __half2float(*reinterpret_cast<const __half*>(mask + cell));
    v[i] = bias == -INFINITY ? kExcluded : v[i] + slope * kLog2E * bias;
  }
}

// What a warp needs for a page besides its bytes and the state of the softmax.
template <typename Tile, int kTiles>
struct WarpContext {
  const typename Tile::Query* query;
  PageTerms terms;
  MeanTables mean;
  std::uint32_t group_counts;
  int lane;
  float scale[kTiles], slope[kTiles];  // of the lane's rows
  long long first;                     // of the sequence's pages
};

// log2 logits plus offset of the lane's keys.
template <bool kShaped, typename Tile, int kTiles>
__device__ __forceinline__ void page_logits(const DecodeParams& p, const BlockPlace& at,
                                            const WarpContext<Tile, kTiles>& warp, const std::uint8_t* keys,
                                            const PageView& view, std::uint32_t norm_bytes,
                                            const float (&offset)[kTiles], float (&v)[kTiles][Tile::kKeys]) {
  const float* key_norms = warp.terms.key_norms;
  Scores<Tile, kTiles> acc;
  score_page<Tile, kTiles>(warp.group_counts, keys, warp.query, p.luts, warp.lane, acc);
#pragma unroll
  for (int i = 0; i < kTiles * Tile::kKeys; ++i) {
    const int tile = i / Tile::kKeys, k = i % Tile::kKeys;
    v[tile][k] = Tile::logit(acc[tile], k, warp.scale[tile]);
  }
  if (warp.mean.n_groups > 0) {
    add_mean<Tile>(p, warp.mean, view, warp.first, norm_bytes, key_norms, offset, warp.lane, v);
  } else {
    for_norms<Tile>(key_norms, warp.lane, [&](int i, float norm) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) v[tile][i] = fmaf(v[tile][i], fabsf(norm), offset[tile]);
    });
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    if constexpr (kShaped) {
      shape_logits<Tile>(p, at, view, tile * Tile::kRows + Tile::row(warp.lane), warp.slope[tile], offset[tile],
                         warp.lane, v[tile]);
    }
    if (view.valid != ~0ull) exclude<Tile>(view.valid, warp.lane, v[tile]);
  }
}

// Sums of the block's teams -> output. n_active: teams that had pages; sums: the ring.
template <int VD, int kPairs>
__device__ __forceinline__ void finish_block(const DecodeParams& p, const BlockPlace& at,
                                             const Team<VD, kPairs>& team, const TeamState<VD, kPairs>& state,
                                             int n_active, float* sums, const float* value_signs, float v_gain,
                                             int warp, int lane, std::uint32_t tag) {
  __shared__ WarpRows<VD, kPairs> rows;
  write_team_sums<VD, kPairs>(team, state, n_active, lane, sums, rows);
#pragma unroll 1
  for (int row = warp; row < at.n_pairs; row += p.n_warps) {
    RowSums<VD> r = reduce_row<VD, kPairs>(sums, n_active, row, lane);
    untransform<VD>(value_signs, v_gain, lane, r);
    if (p.n_splits == 1) {
      write_row<VD>(p, at, row, lane, r);
    } else {
      publish_row<VD>(p, at, row, lane, r, tag);
    }
  }
  if (p.n_splits == 1) return;
  if (threadIdx.x == blockDim.x - 1) close_epoch(p, tag);  // of the warp with least to do
  merge_splits<VD>(p, at, warp, lane, tag);
}

// Pages begin .. end of a sequence are those of a split.
struct PageRange {
  int begin, end;
};

__device__ __forceinline__ PageRange pages_of_split(int n_pages, int split, int n_splits) {
  const int each = n_pages / n_splits, more = n_pages % n_splits;  // the first `more` have one more
  const int begin = split * each + min(split, more);
  return {begin, begin + each + (split < more ? 1 : 0)};
}

// kValueWidth: bits of a value code, 0 for those of the layer.
template <int VD, bool kShaped, int kValueWidth, int kPairs>
__global__ void __launch_bounds__(32 * most_warps(VD, kPairs), 1)
    decode_kernel(const __grid_constant__ DecodeParams p) {
  using Tile = typename Span<kPairs>::Tile;
  constexpr int kTiles = Span<kPairs>::kTiles;
  extern __shared__ __align__(128) std::uint8_t shared[];
  __shared__ float row_scale[kPairs];
  __shared__ std::uint32_t big;
  __shared__ uint4 launch;  // start of the WorkspaceHeader
  static_assert(sizeof(WarpRows<VD, kPairs>) + (most_warps(VD, kPairs) + 1) * sizeof(row_scale) +
                    2 * sizeof(launch) <=
                kMostStaticSharedBytes);  // with move_references' largest logits of each warp
  // The shuffle tells the compiler that it is the same in all lanes.
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __builtin_assume(lane >= 0 && lane < 32);
  const Team<VD, kPairs> team(warp);
  const int kv_head = p.by_spans.quotient(static_cast<int>(blockIdx.y));
  const int span = static_cast<int>(blockIdx.y) - kv_head * p.n_spans;
  const int first_pair = span * kPairs;
  const BlockPlace at{
      static_cast<int>(blockIdx.x), kv_head,    span,
      static_cast<int>(blockIdx.z), first_pair, min(kPairs, p.group * p.call.n_rows - first_pair)};
  const int key_bytes = static_cast<int>(p.layer.key_bytes),
            value_bytes = static_cast<int>(p.layer.value_bytes);
  const int value_at = value_offset(key_bytes, kPairs), ring_bytes = warp_ring_bytes(p.n_stages, p.stage_bytes);

  float* raw = reinterpret_cast<float*>(shared + p.smem_scratch);  // before the first page
  auto* query = reinterpret_cast<typename Tile::Query*>(shared + p.smem_query);
  float4* coefficients = reinterpret_cast<float4*>(shared + p.smem_mean);
  std::uint8_t* block = shared + p.smem_block;
  const DecodeBlock parts = decode_block(p.layer.head_dim_k, VD, p.layer.n_mean_groups, p.layer.n_fast_groups);
  copy_block(p.layer.decode_blocks + static_cast<std::int64_t>(kv_head) * (parts.bytes / 16), parts.bytes,
             block);
  PageRing ring(shared + warp * ring_bytes, p.n_stages, p.stage_bytes, key_bytes, value_bytes, value_at);

  let_next_begin();
  wait_for_previous();  // nothing that another launch writes is read before
  // Tables and queries before pages: behind a first round of pages of all thread blocks they would be late.
  copy_queries<kPairs>(p, at, warp, lane, raw);
  if (threadIdx.x == 0) {
    copy_16(shared_address(&launch), p.header);
    big = 0;
  }
  copy_commit();

  const SequencePages pages = sequence_pages(p, at.batch);
  const auto [begin, end] = pages_of_split(pages.n_pages, at.split, p.n_splits);
  const PageBases source{p.call.cache.key_pages + static_cast<std::uint32_t>(kv_head * key_bytes),
                         p.call.cache.value_pages + static_cast<std::uint32_t>(kv_head * value_bytes),
                         p.layer.key_page_bytes, p.layer.value_page_bytes, p.call.cache.summaries};
  int next = begin + warp;
  if (p.n_stages == 2) {
    ring.issue(source, next < end ? physical_page(p, pages.first, next) : 0, next < end);
    next += p.n_warps;
  }
  std::uint32_t next_page = next < end ? physical_page(p, pages.first, next) : 0;
  const auto fetch = [&] {
    ring.issue(source, next_page, next < end);
    next += p.n_warps;
    next_page = next < end ? physical_page(p, pages.first, next) : 0;
  };

  copy_wait<0>();
  __syncthreads();
  const DecodeScalars scalars = *reinterpret_cast<const DecodeScalars*>(block + parts.scalars);
  transform_queries<Tile, kPairs>(p, reinterpret_cast<const std::uint16_t*>(block + parts.dims),
                                  reinterpret_cast<const float*>(block + parts.gain), raw, warp, lane, query,
                                  row_scale);
  mean_coefficients<Tile, kTiles>(
      p, p.layer.n_mean_groups, reinterpret_cast<const std::uint16_t*>(block + parts.mean_dims),
      reinterpret_cast<const float*>(block + parts.mean_values), raw, coefficients, &big);
  __syncthreads();

  float* terms_at = reinterpret_cast<float*>(shared + p.smem_scratch + warp * p.scratch_bytes);
  WarpContext<Tile, kTiles> context{
      query,
      {terms_at, terms_at + kTermStride, terms_at + 2 * kTermStride},
      {coefficients, reinterpret_cast<const uint4*>(block + parts.basis),
       reinterpret_cast<const MeanBlock*>(block + parts.mean_blocks),
       reinterpret_cast<float2*>(terms_at + 3 * kTermStride), big, scalars.n_mean_groups, scalars.n_fast_groups,
       scalars.n_slopes, p.mean_lanes},
      scalars.group_counts,
      lane,
      {},
      {},
      pages.first};
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const int row = tile * Tile::kRows + Tile::row(lane);
    context.scale[tile] = row_scale[row];
    context.slope[tile] = kShaped ? alibi_slope(p.call.alibi_max_bias, p.call.n_q_heads,
                                                kv_head * p.group + (first_pair + row) % p.group)
                                  : 1.0f;
  }

  TeamState<VD, kPairs> state;
#pragma unroll 1
  for (int i = begin + warp; i - team.part < end; i += p.n_warps) {
    if constexpr (kTiles == 1) fetch();
    std::uint8_t* keys = ring.oldest();
    const std::uint8_t* values = keys + value_at;
    const bool some = kTiles == 1 || i < end;  // the last round of a team may be short
    float v[kTiles][Tile::kKeys];
    if (some) {
      ring.template wait<kTiles == 1>();
      const std::uint32_t norm_bytes =
          load_terms(keys + key_bytes - kCells, values + value_bytes - kCells, context.terms, lane);
      const PageView view = view_page(p, values + value_bytes, i, pages.n_keys);
      float offset[kTiles];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) offset[tile] = state[tile].offset;
      page_logits<kShaped, Tile>(p, at, context, keys, view, norm_bytes, offset, v);
    }
    if constexpr (kTiles == 1) {
      make_room<Tile>(v[0], context.terms.log_norms, lane, state[0]);
      for_width<kValueWidth>(p.layer.v_width, [&](auto width) {
        add_values<width.value, VD, Tile>(v[0], context.terms.value_norms, values, p.luts, lane, state[0]);
      });
    } else {
      share_weights<VD, kPairs>(team, some, context.terms, lane, v, state, reinterpret_cast<uint4*>(keys));
      fetch();
      const int first = i - team.part;
      const TeamPages round{keys - team.part * ring_bytes, min(team.kWarps, end - first), ring_bytes, value_at};
      for_width<kValueWidth>(p.layer.v_width, [&](auto width) {
        add_team_values<width.value, VD, kPairs>(team, round, p.luts, lane, state);
      });
    }
    ring.release();
  }
  ring.close();
  const int n_active = (min(p.n_warps, end - begin) + team.kWarps - 1) / team.kWarps;
  finish_block<VD, kPairs>(p, at, team, state, n_active, reinterpret_cast<float*>(shared),
                           reinterpret_cast<const float*>(block + parts.value_signs), scalars.v_gain, warp,
                           lane, launch.x + 1);
}

}  // namespace gtq::cuda
