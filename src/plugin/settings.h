// What the environment asks of the plugin, read once when it is loaded.
#pragma once

#include <memory>
#include <string>

#include "gtq/allocation.h"
#include "gtq/profile.h"
#include "plugin/packing.h"

namespace gtq::plugin {

enum class Recipe { kGtq, kBlockGtq, kTqMse, kF16, kRecord };

struct Settings {
  bool active = false;  // false: no device is offered and llama.cpp keeps its own cache
  Recipe recipe = Recipe::kGtq;
  std::string recipe_name = "gtq";
  CacheBudget budget;
  Profile profile;                         // of the simulated recipes
  std::unique_ptr<const Packing> packing;  // of recipe gtq; nullptr without GTQ_PROFILE
};

const Settings& settings();

// One line on standard error, "gtq: ..."; say_once() drops repetitions of the same text.
void say(const std::string& text);
void say_once(const std::string& text);
// Why a cache is not packed: only the first reason, since others follow from it.
void say_not_packed(const std::string& text);

}  // namespace gtq::plugin
