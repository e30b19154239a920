#include "cuda/decode_plan.h"

#include <algorithm>

#include "cuda/page_layout.h"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kFewestWarps = 2;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Shared memory behind the ring, in the order in which it lies there.
struct Areas {
  int scratch;  // of all warps; before the first page the raw query rows
  int query, mean, block;
  int all() const { return scratch + query + mean + block; }
};

Areas areas(const DecodeParams& p) {
  const LayerView& layer = p.layer;
  return {std::max(p.n_warps * p.scratch_bytes, p.n_tiles * kRows * layer.head_dim_k * 4),
          p.n_tiles * layer.head_dim_k / 16 * 32 * 8, p.n_tiles * kMeans * p.mean_lanes * 16,
          decode_block(layer.head_dim_k, layer.head_dim_v, layer.n_mean_groups, layer.n_fast_groups).bytes};
}

int scratch_bytes(const LayerView& layer) {
  const int phases = layer.n_mean_groups == 0 ? 0 : std::max(layer.n_mean_groups * kMeanBlocks, kCells) * 8;
  return kTermFloats * 4 + phases;
}

int ring_bytes(const DecodeParams& p) {
  const int n_teams = p.n_warps / team_warps(p.layer.head_dim_v, p.n_tiles);
  const int reduce = n_teams * p.n_tiles * kRows * (p.layer.head_dim_v + 8) * 4;
  return round_up(std::max(p.n_warps * warp_ring_bytes(p.n_stages, p.stage_bytes), reduce), 128);
}

int total_bytes(const DecodeParams& p) { return ring_bytes(p) + areas(p).all(); }

// Most warps that fit; false when too few do.
bool choose_warps(const Layer::Impl& layer, int n_tiles, int n_stages, DecodeParams& p) {
  p.n_tiles = n_tiles;
  p.n_stages = n_stages;
  const int key_bytes = static_cast<int>(p.layer.key_bytes),
            value_bytes = static_cast<int>(p.layer.value_bytes);
  p.stage_bytes = round_up(value_offset(key_bytes, n_tiles) + value_bytes + kSummaryBytes, 16);
  const int team = team_warps(p.layer.head_dim_v, n_tiles);
  for (p.n_warps = most_warps(p.layer.head_dim_v, n_tiles); p.n_warps >= std::max(kFewestWarps, team);
       p.n_warps -= team) {
    if (total_bytes(p) + kMostStaticSharedBytes <= layer.max_shared_bytes) return true;
  }
  return false;
}

// Two tiles where there are pairs for more than one: they need two stages (decode_team.cuh). Else one tile,
// with one stage if need be.
void choose_tiles(const Layer::Impl& layer, int n_pairs, DecodeParams& p) {
  if (n_pairs > kRows && most_tiles(p.layer.head_dim_v) == 2 && choose_warps(layer, 2, 2, p)) return;
  if (choose_warps(layer, 1, 2, p) || choose_warps(layer, 1, 1, p)) return;
  throw Error("pages of these heads do not fit the shared memory of this GPU; use a smaller budget");
}

}  // namespace

int plan_decode(const Layer::Impl& layer, const DecodeCall& call, DecodeParams& p) {
  p.group = call.n_q_heads / layer.view.n_kv_heads;
  p.scratch_bytes = scratch_bytes(layer.view);
  p.mean_lanes = 32 * layer.view.n_mean_groups;
  const int n_pairs = p.group * call.n_rows;
  choose_tiles(layer, n_pairs, p);
  const int span = p.n_tiles * kRows;
  p.n_spans = (n_pairs + span - 1) / span;

  // More than one split needs every thread block resident at once: one per multiprocessor.
  const long long n_units = static_cast<long long>(call.sequences.batch) * layer.view.n_kv_heads * p.n_spans;
  const long long n_pages = (call.sequences.kv_len + kCells - 1) / kCells;
  p.n_splits =
      static_cast<int>(std::clamp<long long>(layer.n_sms / n_units, 1, std::max<long long>(n_pages, 1)));

  const Areas a = areas(p);
  p.smem_scratch = ring_bytes(p);
  p.smem_query = p.smem_scratch + a.scratch;
  p.smem_mean = p.smem_query + a.query;
  p.smem_block = p.smem_mean + a.mean;
  return total_bytes(p);
}

}  // namespace gtq::cuda
