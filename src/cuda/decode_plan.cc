#include "cuda/decode_plan.h"

#include <algorithm>

#include "cuda/page_layout.h"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kFewestWarps = 2, kFewPages = 8;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Shared memory behind the ring, in the order in which it lies there.
struct Areas {
  int scratch;  // of all warps; before the first page the raw query rows
  int query, mean, block;
  int all() const { return scratch + query + mean + block; }
};

Areas areas(const DecodeParams& p) {
  const LayerView& layer = p.layer;
  return {std::max(p.n_warps * p.scratch_bytes, p.span_pairs * layer.head_dim_k * 4),
          p.span_pairs * layer.head_dim_k * 2, kMeans * p.span_pairs * layer.n_mean_groups * 64,
          decode_block(layer.head_dim_k, layer.head_dim_v, layer.n_mean_groups, layer.n_fast_groups).bytes};
}

int scratch_bytes(const LayerView& layer) {
  const int phases = layer.n_mean_groups == 0 ? 0 : std::max(layer.n_mean_groups * kMeanBlocks, kCells) * 8;
  return 3 * kTermStride * 4 + phases;
}

int ring_bytes(const DecodeParams& p) {
  const int n_teams = p.n_warps / team_warps(p.layer.head_dim_v, p.span_pairs);
  const int reduce = n_teams * p.span_pairs * (p.layer.head_dim_v + 8) * 4;
  return round_up(std::max(p.n_warps * warp_ring_bytes(p.n_stages, p.stage_bytes), reduce), 128);
}

int total_bytes(const DecodeParams& p) { return ring_bytes(p) + areas(p).all(); }

// Most warps that fit; false when too few do.
bool choose_warps(const Layer::Impl& layer, int span_pairs, int n_stages, DecodeParams& p) {
  p.span_pairs = span_pairs;
  p.n_stages = n_stages;
  const int key_bytes = static_cast<int>(p.layer.key_bytes),
            value_bytes = static_cast<int>(p.layer.value_bytes);
  p.stage_bytes = round_up(value_offset(key_bytes, span_pairs) + value_bytes + kSummaryBytes, 16);
  const int team = team_warps(p.layer.head_dim_v, span_pairs);
  for (p.n_warps = most_warps(p.layer.head_dim_v, span_pairs); p.n_warps >= std::max(kFewestWarps, team);
       p.n_warps -= team) {
    if (total_bytes(p) + kMostStaticSharedBytes <= layer.max_shared_bytes) return true;
  }
  return false;
}

// More than one split needs every thread block resident at once: one per multiprocessor.
int count_splits(const Layer::Impl& layer, long long n_units, long long n_pages) {
  return static_cast<int>(std::clamp<long long>(layer.n_sms / n_units, 1, std::max<long long>(n_pages, 1)));
}

// Whether all thread blocks run at once and have no more than kFewPages.
bool has_few_pages(const Layer::Impl& layer, long long n_units, long long n_pages) {
  return n_units <= layer.n_sms && n_pages <= kFewPages * count_splits(layer, n_units, n_pages);
}

// The smallest span that holds all pairs, if any does; two narrow ones where blocks have few pages, since what
// counts then is the time that one page takes. Teams need two stages (decode_team.cuh), others do with one if
// need be. n_heads: KV heads of all sequences.
void choose_span(const Layer::Impl& layer, int n_pairs, long long n_heads, long long n_pages, DecodeParams& p) {
  if (n_pairs > kWidePairs && most_pairs(p.layer.head_dim_v) == kTeamPairs &&
      choose_warps(layer, kTeamPairs, 2, p)) {
    return;
  }
  const bool narrow =
      n_pairs <= kNarrowPairs || (n_pairs <= 2 * kNarrowPairs && has_few_pages(layer, 2 * n_heads, n_pages));
  const int span_pairs = narrow ? kNarrowPairs : kWidePairs;
  if (choose_warps(layer, span_pairs, 2, p) || choose_warps(layer, span_pairs, 1, p)) return;
  throw Error("pages of these heads do not fit the shared memory of this GPU; use a smaller budget");
}

}  // namespace

int plan_decode(const Layer::Impl& layer, const DecodeCall& call, DecodeParams& p) {
  p.group = call.n_q_heads / layer.view.n_kv_heads;
  p.scratch_bytes = scratch_bytes(layer.view);
  const int n_pairs = p.group * call.n_rows;
  const long long n_heads = static_cast<long long>(call.sequences.batch) * layer.view.n_kv_heads;
  const long long n_pages = (call.sequences.kv_len + kCells - 1) / kCells;
  choose_span(layer, n_pairs, n_heads, n_pages, p);
  p.mean_lanes = 4 * std::min(p.span_pairs, kWidePairs) * layer.view.n_mean_groups;
  p.n_spans = (n_pairs + p.span_pairs - 1) / p.span_pairs;

  p.n_splits = count_splits(layer, n_heads * p.n_spans, n_pages);
  // Warps without a page only make barriers longer.
  if (p.span_pairs == kNarrowPairs && has_few_pages(layer, n_heads * p.n_spans, n_pages)) {
    p.n_warps = std::min(p.n_warps, kFewPages);
  }

  p.by_group = make_divider(p.group);
  p.by_spans = make_divider(p.n_spans);
  p.by_splits = make_divider(p.n_splits);
  const Areas a = areas(p);
  p.smem_scratch = ring_bytes(p);
  p.smem_query = p.smem_scratch + a.scratch;
  p.smem_mean = p.smem_query + a.query;
  p.smem_block = p.smem_mean + a.mean;
  return total_bytes(p);
}

}  // namespace gtq::cuda
