#include "eval_cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "gtq/error.h"
#include "paths.h"
#include "stock_program.h"

namespace gtq::cli {
namespace {

constexpr std::array<std::string_view, 6> kStockTypes = {"q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"};

double simulated_true_bits(const EvalCache& cache, const Profile& profile) {
  double bits = 0, n_values = 0;
  for (const LayerProfile& layer : profile.layers) {
    const reference::PaperLayer simulated(cache.paper_recipe(), layer, cache.budget.tokens);
    const int n_keys = layer.n_kv_heads * layer.head_dim_k, n_others = layer.n_kv_heads * layer.head_dim_v;
    bits += simulated.true_bits_k() * n_keys + simulated.true_bits_v() * n_others;
    n_values += n_keys + n_others;
  }
  return bits / n_values;
}

}  // namespace

EvalCache parse_eval_cache(const std::string& name) {
  EvalCache cache;
  cache.name = name;
  if (std::find(kStockTypes.begin(), kStockTypes.end(), name) != kStockTypes.end()) {
    cache.stock_type = name;
    return cache;
  }
  if (name == "f16") {
    cache.recipe = "f16";
    return cache;
  }
  cache.recipe = "gtq";
  std::string budget = name;
  for (const std::string simulated : {"block-gtq", "tq-mse"}) {
    if (!name.starts_with(simulated + "-")) continue;
    cache.recipe = simulated;
    budget = name.substr(simulated.size() + 1);
  }
  try {
    cache.budget = parse_cache_budget(budget);
  } catch (const Error&) {
    throw Error(fmt::format(
        "\"{}\" is no cache to measure; use f16, {}, a budget such as k3v3 or k3v3r128, block-gtq-k3v3 or "
        "tq-mse-k3v3",
        printable(name), fmt::join(kStockTypes, ", ")));
  }
  if (cache.is_simulated()) reference::require_paper_budget(cache.budget);
  return cache;
}

std::vector<std::string> split_list(const std::string& list) {
  std::vector<std::string> items;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    items.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return items;
}

std::vector<EvalCache> parse_eval_caches(const std::string& names) {
  std::vector<EvalCache> caches;
  for (const std::string& name : split_list(names)) caches.push_back(parse_eval_cache(name));
  return caches;
}

std::vector<std::string> EvalCache::arguments() const {
  if (stock_type.empty()) return {};
  return {"--cache-type-k", stock_type, "--cache-type-v", stock_type};
}

std::vector<std::string> EvalCache::environment(const std::filesystem::path& profile) const {
  if (!stock_type.empty()) return {};
  return {"GGML_BACKEND_PATH=" + plugin_path().string(), "GTQ_RECIPE=" + recipe, "GTQ_KV=" + to_string(budget),
          "GTQ_PROFILE=" + profile.string()};
}

bool EvalCache::is_simulated() const { return recipe == "block-gtq" || recipe == "tq-mse"; }

reference::PaperRecipe EvalCache::paper_recipe() const {
  return recipe == "block-gtq" ? reference::PaperRecipe::kBlockGtq : reference::PaperRecipe::kTqMse;
}

double logged_kv_mib(const std::string& log) { return sum_of_numbers(log, "KV buffer size ="); }

double true_bits(const EvalCache& cache, double kv_mib, double f16_mib, const std::filesystem::path& profile) {
  if (cache.is_simulated()) {
    return simulated_true_bits(cache, read_profile(profile.string()));
  }
  const double bits = 16 * kv_mib / f16_mib;
  if (cache.recipe == "gtq" && bits > 8) {
    throw Error(
        fmt::format("llama.cpp has used its own cache in place of {}; the plugin has said why", cache.name));
  }
  return bits;
}

}  // namespace gtq::cli
