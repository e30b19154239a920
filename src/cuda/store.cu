// Quantizes rows of keys and values into pages, bit by bit as KeyCodec and ValueCodec do (src/codec).
//
// A warp does one vector at a time. Floats are rounded and summed as on the CPU, integers in any order; the
// file is compiled without contraction to fused multiply-adds. One source of difference is left: sines and
// cosines of doubles whose last bit decides how they round to float. Grid: x over rows, y KV head, z 0 keys, 1
// values.
#include <algorithm>

#include "cuda/layer.h"
#include "cuda/store_keys.cuh"
#include "cuda/store_values.cuh"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 8;  // more rows go to the same thread blocks

template <int kRuns>
__global__ void __launch_bounds__(kStoreThreads) store_kernel(const __grid_constant__ StoreParams p) {
  __shared__ StoreShared<kRuns> shared;
  copy_table(&shared.levels, &p.layer.codec->levels, sizeof shared.levels);
  if (blockIdx.z == 0) {
    store_keys<kRuns>(p, shared);
  } else {
    store_values<kRuns>(p, shared);
  }
}

}  // namespace

void store(const StoreCall& call, Stream stream) {
  if (call.n_rows == 0) return;
  const Layer::Impl& impl = call.layer->impl();
  const LayerView& layer = impl.view;
  if (call.cache.positions == nullptr) throw Error("store on the GPU needs an array of positions");
  const StoreParams p{layer, call.cache, call.keys, call.values, call.cells, call.positions, call.n_rows};
  const long long most = std::max(1, kBlocksPerMultiprocessor * impl.n_sms / (2 * layer.n_kv_heads));
  const auto n_blocks =
      static_cast<unsigned>(std::min<long long>((call.n_rows + kStoreWarps - 1) / kStoreWarps, most));
  const dim3 grid(n_blocks, static_cast<unsigned>(layer.n_kv_heads), 2);
  if (std::max(layer.head_dim_k, layer.head_dim_v) <= 128) {
    store_kernel<1><<<grid, kStoreThreads, 0, stream>>>(p);
  } else {
    store_kernel<2><<<grid, kStoreThreads, 0, stream>>>(p);
  }
  check_launch("store");
}

}  // namespace gtq::cuda
