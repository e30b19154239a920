#include "plugin/settings.h"

#include <fmt/format.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "ggml.h"
#include "gtq/error.h"
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

void load_profile(Settings& s) {
  const std::string path = environment("GTQ_PROFILE", "");
  if (s.recipe == Recipe::kGtq) {
    attention_kernel_name();  // refuses an unknown GTQ_CPU here, not inside a worker thread
    if (!path.empty()) s.packing = std::make_unique<Packing>(read_profile(path), s.budget);
    return;
  }
  if (path.empty()) {
    throw Error(fmt::format(
        "GTQ_PROFILE is not set, which GTQ_RECIPE={} needs; make a profile with `gtq calibrate -m MODEL`",
        s.recipe_name));
  }
  reference::require_paper_budget(s.budget);
  s.profile = read_profile(path);
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
    s.budget = parse_cache_budget(environment("GTQ_KV", "k4v4"));
    if (s.recipe != Recipe::kF16 && s.recipe != Recipe::kRecord) load_profile(s);
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

}  // namespace gtq::plugin
