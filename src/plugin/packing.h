// How the cache of one model is packed: its profile under the budget of this process. Immutable.
#pragma once

#include <cstdint>
#include <map>

#include "gtq/allocation.h"
#include "gtq/attention.h"
#include "gtq/profile.h"

namespace gtq::plugin {

class Packing {
 public:
  Packing(Profile profile, const CacheBudget& budget);

  const Profile& profile() const { return profile_; }
  // nullptr when the profile does not have the layer; recent_codec(): and when no recent tokens are kept apart.
  const LayerCodec* codec(int layer) const { return find(codecs_, layer); }
  const LayerCodec* recent_codec(int layer) const { return find(recent_codecs_, layer); }
  // What the bytes of a saved row depend on: profile and budget.
  std::uint64_t state_tag() const { return state_tag_; }
  std::uint64_t recent_state_tag() const { return recent_state_tag_; }

 private:
  using Codecs = std::map<int, LayerCodec>;
  static const LayerCodec* find(const Codecs& codecs, int layer);

  Profile profile_;
  Codecs codecs_, recent_codecs_;
  std::uint64_t state_tag_, recent_state_tag_;
};

}  // namespace gtq::plugin
