// A KV cache that `gtq eval` measures: one of llama.cpp's own types, or a recipe of the plugin.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/profile.h"

namespace gtq::cli {

struct EvalCache {
  std::string name;        // as it was asked for
  std::string stock_type;  // -ctk and -ctv of llama.cpp; empty: the plugin's cache
  std::string recipe;      // GTQ_RECIPE
  Budget budget;

  // Arguments and variables ("NAME=value") that give a stock program this cache.
  std::vector<std::string> arguments() const;
  std::vector<std::string> environment(const std::filesystem::path& profile) const;
  bool simulated() const { return recipe == "block-gtq" || recipe == "tq-mse"; }
};

// "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl": stock. "f16": 16 bits through the plugin. "k3v3": packed.
// "block-gtq-k3v3", "tq-mse-k3v3": simulated. Throws Error for any other name.
EvalCache parse_eval_cache(const std::string& name);
// Comma separated.
std::vector<EvalCache> parse_eval_caches(const std::string& names);

// Bits per value that a simulated recipe would store, norms included, keys and values of all layers together.
double simulated_true_bits(const EvalCache& cache, const Profile& profile);

}  // namespace gtq::cli
