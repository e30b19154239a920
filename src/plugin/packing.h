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
  Packing(Profile profile, const Budget& budget);

  const Profile& profile() const { return profile_; }
  const LayerCodec* codec(int layer) const;  // nullptr when the profile does not have the layer
  std::uint64_t state_tag() const { return state_tag_; }

 private:
  Profile profile_;
  std::map<int, LayerCodec> codecs_;
  std::uint64_t state_tag_;  // what the bytes of a saved row depend on: profile and budget
};

}  // namespace gtq::plugin
