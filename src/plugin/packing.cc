#include "plugin/packing.h"

#include <utility>
#include <vector>

#include "plugin/state_tag.h"

namespace gtq::plugin {

Packing::Packing(Profile profile, const Budget& budget)
    : profile_(std::move(profile)), state_tag_(make_state_tag(profile_checksum(profile_), budget)) {
  const std::vector<Budget> budgets = share_budget(profile_, budget);
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    const LayerProfile& layer = profile_.layers[i];
    codecs_.try_emplace(layer.layer, layer, budgets[i]);
  }
}

const LayerCodec* Packing::codec(int layer) const {
  const auto found = codecs_.find(layer);
  return found != codecs_.end() ? &found->second : nullptr;
}

}  // namespace gtq::plugin
