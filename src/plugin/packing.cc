#include "plugin/packing.h"

#include <utility>
#include <vector>

#include "plugin/state_tag.h"

namespace gtq::plugin {

Packing::Packing(Profile profile, const CacheBudget& budget)
    : profile_(std::move(profile)),
      state_tag_(make_state_tag(profile_checksum(profile_), budget.tokens)),
      recent_state_tag_(make_state_tag(profile_checksum(profile_), kRecentBudget)) {
  const std::vector<Budget> budgets = share_budget(profile_, budget.tokens);
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    const LayerProfile& layer = profile_.layers[i];
    codecs_.try_emplace(layer.layer, layer, budgets[i]);
    if (budget.recent > 0) recent_codecs_.try_emplace(layer.layer, layer, kRecentBudget);
  }
}

const LayerCodec* Packing::find(const Codecs& codecs, int layer) {
  const auto found = codecs.find(layer);
  return found != codecs.end() ? &found->second : nullptr;
}

}  // namespace gtq::plugin
