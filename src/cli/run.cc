// gtq run: find or make the profile of the model a stock llama.cpp program is about to load, then become it.
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "find_model.h"
#include "gtq/allocation.h"
#include "gtq/error.h"
#include "gtq/profile.h"
#include "paths.h"
#include "profile_cache.h"
#include "reference/paper_layer.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

// Empty when the recipe needs none, or when the plugin has to find one for each of two models.
std::string choose_profile(const RunOptions& options) {
  if (options.recipe == "f16") return "";
  if (!options.profile.empty()) {
    read_profile(options.profile);  // refuses a bad file before anything starts
    return fs::absolute(options.profile);
  }
  const std::optional<fs::path> model = find_model(options.command);
  if (!model) {
    throw Error(fmt::format("no model in the arguments of {}; add -m FILE, or give its profile with --profile",
                            printable(options.command.front())));
  }
  const fs::path profile = fs::absolute(cached_profile(*model));
  const bool each_its_own = options.recipe == "gtq" && has_draft_model(options.command);
  return each_its_own ? "" : profile;
}

}  // namespace

int run(const RunOptions& options) {
  const CacheBudget budget = parse_cache_budget(options.kv);
  if (options.recipe == "block-gtq" || options.recipe == "tq-mse") reference::require_paper_budget(budget);
  const fs::path program = find_program(options.command.front());
  const fs::path plugin = plugin_path();
  const std::string profile = choose_profile(options);

  if (const char* other = std::getenv("GGML_BACKEND_PATH"); other != nullptr && other != plugin) {
    fmt::print(stderr, "gtq: takes the place of the backend {} of GGML_BACKEND_PATH\n", printable(other));
  }
  setenv("GGML_BACKEND_PATH", plugin.c_str(), 1);
  setenv("GTQ_KV", to_string(budget).c_str(), 1);
  setenv("GTQ_RECIPE", options.recipe.c_str(), 1);
  if (profile.empty()) {
    unsetenv("GTQ_PROFILE");
  } else {
    setenv("GTQ_PROFILE", profile.c_str(), 1);
  }
  std::vector<std::string> command = options.command;
  std::vector<char*> argv;
  for (std::string& argument : command) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  throw Error(fmt::format("cannot start {}: {}", printable(program.string()), std::strerror(errno)));
}

}  // namespace gtq::cli
