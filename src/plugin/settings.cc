#include "plugin/settings.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>

#include "ggml.h"
#include "gtq/error.h"
#include "plugin/state_tag.h"
#include "reference/paper_layer.h"

namespace gtq::plugin {
namespace {

std::string environment(const char* name, const char* fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : fallback;
}

Recipe parse_recipe(const std::string& name) {
  static const std::map<std::string, Recipe> recipes = {{"gtq", Recipe::kGtq},
                                                        {"block-gtq", Recipe::kBlockGtq},
                                                        {"tq-mse", Recipe::kTqMse},
                                                        {"f16", Recipe::kF16},
                                                        {"record", Recipe::kRecord}};
  const auto found = recipes.find(name);
  if (found == recipes.end()) {
    throw Error(fmt::format("GTQ_RECIPE={} is unknown; use gtq, block-gtq, tq-mse or f16", name));
  }
  return found->second;
}

std::uint64_t checksum_of(const std::string& profile_path) {
  constexpr std::streamoff kChecksumOffset = 48;
  std::uint64_t checksum = 0;
  std::ifstream(profile_path, std::ios::binary)
      .seekg(kChecksumOffset)
      .read(reinterpret_cast<char*>(&checksum), sizeof checksum);
  return checksum;
}

Settings load() {
  Settings s;
  try {
    if (std::strcmp(ggml_version(), GTQ_GGML_VERSION) != 0) {
      throw Error(
          fmt::format("this plugin was built for ggml {} but llama.cpp brings {}; use the matching build",
                      GTQ_GGML_VERSION, ggml_version()));
    }
    s.recipe_name = environment("GTQ_RECIPE", "gtq");
    s.recipe = parse_recipe(s.recipe_name);
    s.budget = parse_budget(environment("GTQ_KV", "k4v4"));
    if (s.recipe != Recipe::kF16 && s.recipe != Recipe::kRecord) {
      const std::string path = environment("GTQ_PROFILE", "");
      if (path.empty()) {
        throw Error(
            "GTQ_PROFILE is not set; make a profile with `gtq calibrate -m MODEL` or start with `gtq run`");
      }
      s.profile = read_profile(path);
      if (s.recipe == Recipe::kGtq) {
        s.layer_budgets = share_budget(s.profile, s.budget);
      } else {
        reference::require_whole_bits(s.budget);
      }
      s.state_tag = make_state_tag(checksum_of(path), s.budget);
      attention_kernel_name();  // refuses an unknown GTQ_CPU here, not inside a worker thread
    }
    s.active = true;
  } catch (const std::exception& e) {
    std::string text = e.what();
    if (text.rfind("gtq: ", 0) == 0) text = text.substr(5);
    say(text + " (llama.cpp goes on with its own cache)");
  }
  return s;
}

}  // namespace

void say(const std::string& text) { std::fprintf(stderr, "gtq: %s\n", text.c_str()); }

void say_once(const std::string& text) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  if (said.insert(text).second) say(text);
}

void say_not_packed(const std::string& text) {
  static std::once_flag said;
  std::call_once(said, [&] { say(text); });
}

const Settings& settings() {
  static const Settings instance = load();
  return instance;
}

const LayerCodec* layer_codec(int layer) {
  static std::mutex mutex;
  static std::map<int, std::unique_ptr<LayerCodec>> codecs;
  const std::lock_guard lock(mutex);
  const auto found = codecs.find(layer);
  if (found != codecs.end()) return found->second.get();
  const LayerProfile* profile = settings().profile.find_layer(layer);
  if (profile == nullptr) return nullptr;
  const Budget& budget = settings().layer_budgets[profile - settings().profile.layers.data()];
  return codecs.emplace(layer, std::make_unique<LayerCodec>(*profile, budget)).first->second.get();
}

}  // namespace gtq::plugin
