#include "plugin/simulate.h"

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "gtq/error.h"
#include "plugin/ops.h"
#include "plugin/settings.h"
#include "reference/paper.h"

namespace gtq::plugin {
namespace {

constexpr std::uint64_t kSeed = 1;

using Simulate = std::function<void(const float*, float*)>;

std::vector<Simulate> make(const LayerProfile& layer, bool is_key) {
  std::vector<Simulate> heads;
  for (int h = 0; h < layer.n_kv_heads; ++h) {
    if (is_key && settings().recipe == Recipe::kBlockGtq) {
      auto codec = std::make_shared<reference::BlockGtq>(layer, h, settings().budget.k_bits);
      heads.push_back([codec](const float* in, float* out) { codec->simulate(in, out); });
    } else {
      auto codec = std::make_shared<reference::TqMse>(
          is_key ? layer.head_dim_k : layer.head_dim_v,
          is_key ? settings().budget.k_bits : settings().budget.v_bits, kSeed + (is_key ? 0 : 1));
      heads.push_back([codec](const float* in, float* out) { codec->simulate(in, out); });
    }
  }
  return heads;
}

}  // namespace

void simulate_rows(const ggml_tensor* store) {
  static std::map<std::pair<int, bool>, std::vector<Simulate>> cache;
  const CacheName name = *cache_name(root(store));
  const LayerProfile* layer = settings().profile.find_layer(name.layer);
  if (layer == nullptr) throw Error("the profile does not have this layer; calibrate this model");
  auto& heads = cache[{name.layer, name.is_key}];
  if (heads.empty()) heads = make(*layer, name.is_key);
  const int head_dim = name.is_key ? layer->head_dim_k : layer->head_dim_v;
  const ggml_tensor* rows = store->src[0];
  if (rows->ne[0] != static_cast<std::int64_t>(head_dim) * layer->n_kv_heads) {
    throw Error("the profile does not fit this model's cache; calibrate this model");
  }
  for (std::int64_t t = 0; t < rows->ne[1]; ++t) {
    auto* row = reinterpret_cast<float*>(static_cast<char*>(rows->data) + t * rows->nb[1]);
    for (int h = 0; h < layer->n_kv_heads; ++h) heads[h](row + h * head_dim, row + h * head_dim);
  }
}

}  // namespace gtq::plugin
