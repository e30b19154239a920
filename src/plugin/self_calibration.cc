#include "plugin/self_calibration.h"

#include <fmt/format.h>
#include <malloc.h>  // malloc_trim

#include <algorithm>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <utility>
#include <vector>

#include "gtq/error.h"
#include "plugin/model_match.h"
#include "plugin/ops.h"
#include "plugin/settings.h"
#include "profile/profile_folder.h"

namespace gtq::plugin {
namespace fs = std::filesystem;
namespace {

// llama.cpp warms a model up with so many tokens, which are no text, and clears its cache.
constexpr std::int64_t kWarmUpTokens = 2;

using Fits = std::function<bool(const Profile&)>;

// The packings of this process, for every context of a model the same one.
class Packings {
 public:
  const Packing* find(const Fits& fits) {
    const std::lock_guard lock(mutex_);
    const auto found =
        std::ranges::find_if(packings_, [&](const auto& packing) { return fits(packing->profile()); });
    return found != packings_.end() ? found->get() : nullptr;
  }
  const Packing* add(Profile profile) {
    auto packing = std::make_unique<Packing>(std::move(profile), settings().budget);
    const std::lock_guard lock(mutex_);
    return packings_.emplace_back(std::move(packing)).get();
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Packing>> packings_;
};

Packings& packings() {
  static Packings instance;
  return instance;
}

std::set<Cache*> caches_of(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> caches;
  for (int i = 0; i < n_nodes; ++i) {
    const ggml_tensor* cache = is_cache_attention(nodes[i]) ? nodes[i]->src[1] : nodes[i];
    if (owned_cache(cache) != nullptr) caches.insert(owned_cache(cache));
  }
  return caches;
}

// Tokens whose queries attend a cache.
std::int64_t tokens_of(ggml_tensor** nodes, int n_nodes) {
  const auto attention = std::find_if(nodes, nodes + n_nodes, is_cache_attention);
  if (attention == nodes + n_nodes) return 0;
  const ggml_tensor* q = (*attention)->src[0];
  return q->ne[1] * q->ne[3];
}

bool is_empty(const Cache* cache) {
  return std::ranges::all_of(cache->positions, [](std::int32_t position) { return position == kEmptyCell; });
}

std::optional<FoundProfile> find_kept(const Fits& fits) {
  try {
    return find_profile(profile_folder(), fits);
  } catch (const Error&) {  // there is no folder; save() says so
    return std::nullopt;
  }
}

// A profile that cannot be kept still serves this run.
void save(const Profile& profile) {
  try {
    const fs::path folder = profile_folder();
    const fs::path path = folder / fmt::format("model-{:016x}.gtq.gguf", profile.fingerprint);
    std::error_code ec;
    fs::create_directories(folder, ec);
    if (ec) throw Error(fmt::format("cannot make the folder {}: {}", folder.string(), ec.message()));
    write_profile(profile, path);
    say(fmt::format("calibrated on the first {} tokens; the profile is kept in {}", profile.n_tokens,
                    path.string()));
  } catch (const Error& e) {
    say(fmt::format("calibrated on the first {} tokens; the profile serves this run only ({})",
                    profile.n_tokens, e.what()));
  }
}

}  // namespace

bool SelfCalibration::prepare(ggml_tensor** nodes, int n_nodes) {
  const std::set<Cache*> caches = caches_of(nodes, n_nodes);
  if (caches.empty()) return false;
  if (!identified_ && tokens_of(nodes, n_nodes) > 0) identify(nodes, n_nodes);
  if (recording_) packing_ = packings().find(fits(nodes, n_nodes));  // another context was faster
  if (packing_ != nullptr) {
    stop_recording();
    pack(caches);
  }
  if (recording_ && n_tokens_ <= kWarmUpTokens && std::ranges::all_of(caches, is_empty)) {
    recorder_ = Recorder();
    n_tokens_ = 0;
  }
  return recording_;
}

void SelfCalibration::count(ggml_tensor** nodes, int n_nodes) {
  n_tokens_ += tokens_of(nodes, n_nodes);
  if (!recorder_.problem().empty() || n_tokens_ >= kCalibrationTokens) finish();
}

void SelfCalibration::identify(ggml_tensor** nodes, int n_nodes) {
  identified_ = true;
  fingerprint_ = graph_fingerprint(nodes, n_nodes);
  try {
    packing_ = packings().find(fits(nodes, n_nodes));
    if (packing_ != nullptr) return;
    if (auto found = find_kept(fits(nodes, n_nodes))) {
      packing_ = packings().add(std::move(found->profile));
      say(fmt::format("profile {}", found->path.string()));
      return;
    }
    say_once(
        fmt::format("no profile of this model yet: the cache stays in 16 bits for {} tokens, to calibrate it",
                    kCalibrationTokens));
    recording_ = true;
  } catch (const Error& e) {
    give_up(e.what());
  }
}

Fits SelfCalibration::fits(ggml_tensor** nodes, int n_nodes) const {
  return [=, this](const Profile& profile) {
    return profile.fingerprint == fingerprint_ && rotates_alike(profile, nodes, n_nodes);
  };
}

void SelfCalibration::pack(const std::set<Cache*>& caches) {
  try {
    for (Cache* cache : caches) {
      if (cache->packing != nullptr) continue;
      if (!cache->fits(*packing_)) throw Error("the profile does not have all layers of this cache");
      cache->pack(*packing_);
    }
  } catch (const Error& e) {
    give_up(e.what());
  } catch (const std::bad_alloc&) {
    give_up("no memory for a packed cache");
  }
}

void SelfCalibration::finish() {
  try {
    recorder_.set_fingerprint(fingerprint_);
    Profile profile = recorder_.finish(fmt::format("model {:016x}", fingerprint_), "first prompts");
    save(profile);
    packing_ = packings().add(std::move(profile));
  } catch (const Error& e) {
    give_up(e.what());
  }
  stop_recording();
}

void SelfCalibration::stop_recording() {
  if (!recording_) return;
  recording_ = false;
  recorder_ = Recorder();
#ifdef __GLIBC__
  malloc_trim(0);  // what was recorded lay in pieces too small to be given back at once
#endif
}

void SelfCalibration::give_up(const char* why) {
  packing_ = nullptr;
  say_once(fmt::format("{} (the cache stays in 16 bits)", why));
}

}  // namespace gtq::plugin
