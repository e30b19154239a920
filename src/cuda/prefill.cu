// Prefill: chunk after chunk is dequantized into the workspace and attended; sums go from chunk to chunk
// through the outputs.
#include <algorithm>

#include "cuda/layer.h"
#include "cuda/prefill.h"
#include "cuda/prefill_sm80.cuh"
#include "cuda/prefill_sm90.cuh"
#include "cuda/prefill_tiles.cuh"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr std::int64_t kMostRows = std::int64_t{1} << 30;  // times query heads
constexpr std::int64_t kMostChunkKeys = kMostChunkTiles * std::int64_t{64};

int padded_dims(const LayerView& layer) {
  const int d = std::max(layer.head_dim_k, layer.head_dim_v);
  return d <= 64 ? 64 : d <= 128 ? 128 : 256;
}

// What the size of the workspace depends on.
void check_shape(const PrefillCall& call) {
  check_heads(call.layer->impl(), call.n_q_heads);
  if (call.n_rows < 0) throw Error("the number of query rows is negative");
  if (call.n_rows * call.n_q_heads > kMostRows) {
    throw Error("prefill takes at most 2^30 rows times heads; pass fewer rows");
  }
  if (call.chunk_keys <= 0 || call.chunk_keys % 128 != 0 || call.chunk_keys > kMostChunkKeys) {
    throw Error("chunks of prefill are multiples of 128 keys, at most 16384");
  }
}

void check_call(const PrefillCall& call) {
  check_shape(call);
  if (call.kv_len < 0) throw Error("the number of keys is negative");
  if (call.causal && call.n_rows > call.kv_len) {
    throw Error("causal rows are the last of the sequence; there are more rows than keys");
  }
  if (call.sm_scale <= 0.0f) throw Error("prefill needs a positive scale of the logits");
  if (call.workspace == nullptr) throw Error("prefill needs a workspace");
}

// Parts of the workspace, byte offsets.
struct Workspace {
  std::size_t present, kinds, state, bytes;
};

int n_query_tiles(const PrefillCall& call) {
  const std::int64_t n_m = call.n_rows * (call.n_q_heads / call.layer->impl().view.n_kv_heads);
  return static_cast<int>((n_m + kQueryTile - 1) / kQueryTile);
}

Workspace plan_workspace(const PrefillCall& call) {
  const LayerView& layer = call.layer->impl().view;
  const auto round_up = [](std::size_t n) { return (n + 255) / 256 * 256; };
  const int dims = padded_dims(layer);
  const std::size_t n_tiles = call.chunk_keys / tile_keys(dims);
  Workspace w{};
  w.present = n_tiles * layer.n_kv_heads * 2 * half_tile_bytes(dims);
  w.kinds = w.present + round_up(n_tiles * sizeof(uint4));
  w.state = w.kinds + round_up(n_tiles * n_query_tiles(call));
  w.bytes = w.state + round_up(static_cast<std::size_t>(call.n_rows) * call.n_q_heads * sizeof(float2));
  return w;
}

PrefillParams make_params(const PrefillCall& call) {
  const LayerView& layer = call.layer->impl().view;
  const Workspace w = plan_workspace(call);
  auto* workspace = static_cast<std::uint8_t*>(call.workspace);
  PrefillParams p{};
  p.call = call;
  p.layer = layer;
  p.group = call.n_q_heads / layer.n_kv_heads;
  p.n_m = static_cast<int>(call.n_rows) * p.group;
  p.tiles = workspace;
  p.present = reinterpret_cast<uint4*>(workspace + w.present);
  p.kinds = reinterpret_cast<TileKind*>(workspace + w.kinds);
  p.state = reinterpret_cast<float2*>(workspace + w.state);
  return p;
}

struct Launch {
  void (*attend)(PrefillParams);
  int n_threads, shared_bytes;
};

template <int kDims, bool kShaped>
Launch choose_launch(PrefillKernel kernel) {
  if (kernel == PrefillKernel::kSm90) {
    return {prefill_sm90_kernel<kDims, kShaped>, kPrefillThreadsSm90, prefill_shared_bytes_sm90<kDims>()};
  }
  return {prefill_sm80_kernel<kDims, kShaped>, kPrefillThreadsSm80, prefill_shared_bytes_sm80<kDims>()};
}

template <int kDims>
void make_tiles(const PrefillParams& p, Stream stream) {
  const LayerView& layer = p.layer;
  const int shared_bytes = kCells * kDims * 2 + static_cast<int>(std::max(layer.key_bytes, layer.value_bytes));
  constexpr int kMostPageBytes = kCells * (kDims * kMaxWidth / 8 + 1);
  check(cudaFuncSetAttribute(prefill_tiles_kernel<kDims>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             kCells * kDims * 2 + kMostPageBytes),
        "reserve shared memory for prefill");
  const dim3 pages(p.n_tiles * tile_keys(kDims) / kCells, layer.n_kv_heads, 2);
  prefill_tiles_kernel<kDims><<<pages, kTileThreads, shared_bytes, stream>>>(p);
  if (p.call.mask != nullptr) {
    prefill_kinds_kernel<kDims><<<dim3(n_query_tiles(p.call), p.n_tiles), kTileThreads, 0, stream>>>(p);
  }
  check_launch("prefill tiles");
}

template <int kDims>
void run_chunks(PrefillKernel kernel, const PrefillCall& call, Stream stream) {
  PrefillParams p = make_params(call);
  const bool shaped = p.call.mask != nullptr || p.call.logit_softcap > 0.0f;
  const Launch launch = shaped ? choose_launch<kDims, true>(kernel) : choose_launch<kDims, false>(kernel);
  check(cudaFuncSetAttribute(launch.attend, cudaFuncAttributeMaxDynamicSharedMemorySize, launch.shared_bytes),
        "reserve shared memory for prefill");
  const dim3 grid(n_query_tiles(call), p.layer.n_kv_heads);
  do {
    const long long left = p.call.kv_len - p.first_cell;
    p.is_first = p.first_cell == 0;
    p.is_last = left <= call.chunk_keys;
    p.n_tiles = static_cast<int>((std::min<long long>(left, call.chunk_keys) + tile_keys(kDims) - 1) /
                                 tile_keys(kDims));
    if (p.n_tiles > 0) make_tiles<kDims>(p, stream);
    launch.attend<<<grid, launch.n_threads, launch.shared_bytes, stream>>>(p);
    check_launch("prefill");
    p.first_cell += call.chunk_keys;
  } while (!p.is_last);
}

}  // namespace

PrefillKernel best_prefill_kernel([[maybe_unused]] const Layer& layer) {
#ifdef GTQ_CUDA_HAS_SM90A
  if (layer.impl().compute_capability == 90) return PrefillKernel::kSm90;
#endif
  return PrefillKernel::kSm80;
}

std::size_t prefill_workspace_bytes(const PrefillCall& call) {
  check_shape(call);
  return plan_workspace(call).bytes;
}

void prefill_with(PrefillKernel kernel, const PrefillCall& call, Stream stream) {
  check_call(call);
  if (call.n_rows == 0) return;
  switch (padded_dims(call.layer->impl().view)) {
    case 64:
      return run_chunks<64>(kernel, call, stream);
    case 128:
      return run_chunks<128>(kernel, call, stream);
    default:
      return run_chunks<256>(kernel, call, stream);
  }
}

void prefill(const PrefillCall& call, Stream stream) {
  prefill_with(best_prefill_kernel(*call.layer), call, stream);
}

}  // namespace gtq::cuda
