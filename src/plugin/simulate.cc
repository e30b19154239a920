#include "plugin/simulate.h"

#include <map>

#include "gtq/error.h"
#include "plugin/ops.h"
#include "plugin/settings.h"
#include "reference/paper_layer.h"

namespace gtq::plugin {
namespace {

const reference::PaperLayer& simulated_layer(const LayerProfile& layer) {
  static std::map<int, reference::PaperLayer> cache;
  const auto found = cache.find(layer.layer);
  if (found != cache.end()) return found->second;
  const auto recipe = settings().recipe == Recipe::kBlockGtq ? reference::PaperRecipe::kBlockGtq
                                                             : reference::PaperRecipe::kTqMse;
  return cache.try_emplace(layer.layer, recipe, layer, settings().budget.tokens).first->second;
}

}  // namespace

void simulate_rows(const ggml_tensor* store) {
  const CacheName name = *cache_name(root(store));
  const LayerProfile* layer = settings().profile.find_layer(name.layer);
  if (layer == nullptr) throw Error("the profile does not have this layer; calibrate this model");
  const int head_dim = name.is_key ? layer->head_dim_k : layer->head_dim_v;
  const ggml_tensor* rows = store->src[0];
  if (rows->ne[0] != static_cast<std::int64_t>(head_dim) * layer->n_kv_heads) {
    throw Error("the profile does not fit this model's cache; calibrate this model");
  }
  const reference::PaperLayer& simulated = simulated_layer(*layer);
  for (std::int64_t t = 0; t < rows->ne[1]; ++t) {
    auto* row = reinterpret_cast<float*>(static_cast<char*>(rows->data) + t * rows->nb[1]);
    if (name.is_key) {
      simulated.simulate_keys(row);
    } else {
      simulated.simulate_values(row);
    }
  }
}

}  // namespace gtq::plugin
