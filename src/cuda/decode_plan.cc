#include "cuda/decode_plan.h"

#include <algorithm>

#include "cuda/page_layout.h"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kStaticSharedBytes = 3072;  // of the kernel itself
constexpr int kFewestWarps = 2;

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Shared memory besides ring and scratch.
int fixed_bytes(const LayerView& layer) {
  return layer.head_dim_k / 16 * 32 * 8 + kRows * layer.head_dim_k * 4 + layer.n_mean_groups * kMeans * 512 +
         decode_block(layer.head_dim_k, layer.head_dim_v, layer.n_mean_groups).bytes;
}

int scratch_bytes(const LayerView& layer) {
  const int phases = layer.n_mean_groups == 0 ? 0 : std::max(layer.n_mean_groups * kMeanBlocks, kCells) * 8;
  return kTermFloats * 4 + phases;
}

int ring_bytes(const DecodeParams& p) {
  const int reduce = p.n_warps * kRows * (p.layer.head_dim_v + 8) * 4;
  return round_up(std::max(p.n_warps * warp_ring_bytes(p.n_stages, p.stage_bytes), reduce), 128);
}

int total_bytes(const DecodeParams& p) {
  return ring_bytes(p) + p.n_warps * p.scratch_bytes + fixed_bytes(p.layer);
}

// Most warps with two stages each, else with one.
void choose_warps(const Layer::Impl& layer, DecodeParams& p) {
  const int most = most_warps(p.layer.head_dim_v);
  for (p.n_stages = 2; p.n_stages >= 1; --p.n_stages) {
    for (p.n_warps = most; p.n_warps >= kFewestWarps; --p.n_warps) {
      if (total_bytes(p) + kStaticSharedBytes <= layer.max_shared_bytes) return;
    }
  }
  throw Error("pages of these heads do not fit the shared memory of this GPU; use a smaller budget");
}

}  // namespace

int plan_decode(const Layer::Impl& layer, const DecodeCall& call, DecodeParams& p) {
  p.group = call.n_q_heads / layer.view.n_kv_heads;
  p.n_tiles = (p.group * call.n_rows + kRows - 1) / kRows;
  p.stage_bytes =
      round_up(static_cast<int>(layer.view.key_bytes + layer.view.value_bytes) + kSummaryBytes, 128);
  p.scratch_bytes = scratch_bytes(layer.view);
  p.mean_lanes = 32 * layer.view.n_mean_groups;
  choose_warps(layer, p);

  // More than one split needs every thread block resident at once: one per multiprocessor.
  const long long n_units = static_cast<long long>(call.sequences.batch) * layer.view.n_kv_heads * p.n_tiles;
  const long long n_pages = (call.sequences.kv_len + kCells - 1) / kCells;
  p.n_splits =
      static_cast<int>(std::clamp<long long>(layer.n_sms / n_units, 1, std::max<long long>(n_pages, 1)));

  p.smem_scratch = ring_bytes(p);
  p.smem_query = p.smem_scratch + p.n_warps * p.scratch_bytes;
  p.smem_raw = p.smem_query + p.layer.head_dim_k / 16 * 32 * 8;
  p.smem_mean = p.smem_raw + kRows * p.layer.head_dim_k * 4;
  p.smem_block = p.smem_mean + kMeans * p.mean_lanes * 16;
  return total_bytes(p);
}

}  // namespace gtq::cuda
