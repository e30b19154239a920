// A KV cache that `gtq eval` measures: one of llama.cpp's own types, or a recipe of the plugin.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/profile.h"
#include "reference/paper_layer.h"

namespace gtq::cli {

struct EvalCache {
  std::string name;        // as it was asked for
  std::string stock_type;  // -ctk and -ctv of llama.cpp; empty: the plugin's cache
  std::string recipe;      // GTQ_RECIPE
  CacheBudget budget;

  // Arguments and variables ("NAME=value") that give a stock program this cache.
  std::vector<std::string> arguments() const;
  std::vector<std::string> environment(const std::filesystem::path& profile) const;
  bool is_simulated() const;
  reference::PaperRecipe paper_recipe() const;  // when simulated
};

// "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl": stock. "f16": 16 bits through the plugin. "k3v3",
// "k3v3r128": packed. "block-gtq-k3v3", "tq-mse-k3v3": simulated. Throws Error for any other name.
EvalCache parse_eval_cache(const std::string& name);
// Comma separated.
std::vector<EvalCache> parse_eval_caches(const std::string& names);

// Items of a comma separated list, empty ones included.
std::vector<std::string> split_list(const std::string& list);

// MiB of the KV cache, in the log of a stock program.
double logged_kv_mib(const std::string& log);
// Bits per value that this cache stores, norms included: by its size, for a simulated recipe by its definition.
// Throws Error when llama.cpp has used its own cache in place of a packed one.
double true_bits(const EvalCache& cache, double kv_mib, double f16_mib, const std::filesystem::path& profile);

}  // namespace gtq::cli
