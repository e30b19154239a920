#include "plugin/model_match.h"

#include <algorithm>

#include "plugin/ops.h"

namespace gtq::plugin {
namespace {

// Parameters of YaRN count only where YaRN is on.
bool same_rotation(RopeParams a, const RopeParams& b) {
  if (a.ext_factor == 0) {
    a.n_ctx_orig = b.n_ctx_orig;
    a.beta_fast = b.beta_fast;
    a.beta_slow = b.beta_slow;
  }
  return a == b;
}

}  // namespace

bool rotates_alike(const Profile& profile, ggml_tensor** nodes, int n_nodes) {
  return std::all_of(nodes, nodes + n_nodes, [&](const ggml_tensor* node) {
    const ggml_tensor* rope = is_cache_store(node) ? rope_of(node) : nullptr;
    const LayerProfile* layer = rope != nullptr ? profile.find_layer(cache_name(root(node))->layer) : nullptr;
    return layer == nullptr || same_rotation(rope_params(rope), layer->rope);
  });
}

std::set<Cache*> caches_of(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> caches;
  for (int i = 0; i < n_nodes; ++i) {
    Cache* cache = owned_cache(is_cache_attention(nodes[i]) ? nodes[i]->src[1] : nodes[i]);
    if (cache != nullptr) caches.insert(cache);
  }
  return caches;
}

Stores stores(ggml_tensor** nodes, int n_nodes, const std::set<Cache*>& caches) {
  std::set<const ggml_tensor*> stored;
  for (int i = 0; i < n_nodes; ++i) {
    if (is_cache_store(nodes[i]) && owned_cache(nodes[i]) != nullptr) stored.insert(root(nodes[i]));
  }
  std::size_t n_tensors = 0;
  for (const Cache* cache : caches) n_tensors += cache->tensors.size();
  return stored.size() == n_tensors ? Stores::kAll : stored.empty() ? Stores::kNothing : Stores::kPart;
}

}  // namespace gtq::plugin
