// What the environment asks of the plugin, read once when it is loaded.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/attention.h"
#include "gtq/profile.h"

namespace gtq::plugin {

enum class Recipe { kGtq, kBlockGtq, kTqMse, kF16, kRecord };

struct Settings {
  bool active = false;  // false: no device is offered and llama.cpp keeps its own cache
  Recipe recipe = Recipe::kGtq;
  std::string recipe_name = "gtq";
  Budget budget;
  Profile profile;
  std::vector<Budget> layer_budgets;  // [profile.layers]
  std::uint64_t state_tag = 0;        // what the bytes of a saved row depend on: profile and budget
};

const Settings& settings();

// One line on standard error, "gtq: ..."; say_once() drops repetitions of the same text.
void say(const std::string& text);
void say_once(const std::string& text);
// Why a cache is not packed: only the first reason, since others follow from it.
void say_not_packed(const std::string& text);

// Codec of a layer under the profile and budget; nullptr when the profile does not have the layer.
const LayerCodec* layer_codec(int layer);

}  // namespace gtq::plugin
