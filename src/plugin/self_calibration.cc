#include "plugin/self_calibration.h"

#include <fmt/format.h>
#include <malloc.h>  // malloc_trim

#include <algorithm>
#include <filesystem>
#include <functional>
#include <list>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <utility>

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

constexpr const char* kNotAllLayers = "the profile does not have all layers of this cache";

using Fits = std::function<bool(const Profile&)>;

// The packings of this process, for every context of a model the same one. Held while a model is looked up or a
// profile of it made, so that contexts that calibrate at the same time agree on one.
struct Packings {
  std::mutex mutex;
  std::list<Packing> all;

  const Packing* find(const Fits& fits) {
    const auto found =
        std::ranges::find_if(all, [&](const Packing& packing) { return fits(packing.profile()); });
    return found != all.end() ? &*found : nullptr;
  }
  const Packing* add(Packing packing) { return &all.emplace_back(std::move(packing)); }
};

Packings& packings() {
  static Packings instance;
  return instance;
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

bool fit(const Profile& profile, const std::set<Cache*>& caches) {
  return std::ranges::all_of(caches, [&](const Cache* cache) { return cache->fits(profile); });
}

bool is_packed(const Cache* cache) { return cache->packing != nullptr; }

std::optional<FoundProfile> find_kept(const Fits& fits) {
  try {
    return find_profile(profile_folder(), fits);
  } catch (const Error&) {  // there is no folder; save() says so
    return std::nullopt;
  }
}

// A profile of this process, else the one kept in the folder, which is named; nullptr when there is none.
const Packing* look_up(const Fits& fits) {
  if (const Packing* packing = packings().find(fits)) return packing;
  auto kept = find_kept(fits);
  if (!kept) return nullptr;
  const Packing* packing = packings().add({std::move(kept->profile), settings().budget});
  say(fmt::format("profile {}", kept->path.string()));
  return packing;
}

// The checksum is in the name because a model has a profile for each way to rotate its keys. Throws Error.
fs::path save(const Profile& profile) {
  if (profile.fingerprint == 0) throw Error("this model has no small weights to know it by");
  const fs::path folder = profile_folder();
  const fs::path path =
      folder / fmt::format("model-{:016x}-{:016x}.gtq.gguf", profile.fingerprint, profile_checksum(profile));
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (ec) throw Error(fmt::format("cannot make the folder {}: {}", folder.string(), ec.message()));
  write_profile(profile, path);
  return path;
}

// A profile that cannot be kept still serves this run.
void keep(const Profile& profile) {
  std::string what;
  try {
    what = fmt::format("is kept in {}", save(profile).string());
  } catch (const Error& e) {
    what = fmt::format("serves this run only ({})", e.what());
  }
  say(fmt::format("calibrated on the first {} tokens; the profile {}", profile.n_tokens, what));
}

}  // namespace

bool SelfCalibration::prepare(ggml_tensor** nodes, int n_nodes) {
  const bool gave_up = identified_ && !recording_ && packing_ == nullptr;
  if (gave_up) return false;
  const std::set<Cache*> caches = caches_of(nodes, n_nodes);
  if (caches.empty()) return false;
  const Stores stored = identified_ && !recording_ ? Stores::kNothing : stores(nodes, n_nodes, caches);
  if (!identified_ && stored == Stores::kAll && tokens_of(nodes, n_nodes) > 0) identify(nodes, n_nodes);
  if (recording_) use_faster(nodes, n_nodes, caches);
  if (packing_ != nullptr) pack(caches);
  if (recording_ && n_tokens_ <= kWarmUpTokens && std::ranges::all_of(caches, is_empty)) {
    recorder_ = Recorder();
    n_tokens_ = 0;
  }
  if (stored == Stores::kPart && std::ranges::none_of(caches, is_packed)) {
    say_once(
        "this program computes the model in pieces, on which it cannot be calibrated (the cache stays in 16 "
        "bits)");
  }
  return recording_ && stored == Stores::kAll;
}

void SelfCalibration::count(ggml_tensor** nodes, int n_nodes) {
  n_tokens_ += tokens_of(nodes, n_nodes);
  if (!recorder_.problem().empty() || n_tokens_ >= kCalibrationTokens) finish(nodes, n_nodes);
}

void SelfCalibration::identify(ggml_tensor** nodes, int n_nodes) {
  identified_ = true;
  fingerprint_ = graph_fingerprint(nodes, n_nodes);
  try {
    const std::lock_guard lock(packings().mutex);
    packing_ = look_up(fits(nodes, n_nodes));
    if (packing_ != nullptr) return;
    say_once(
        fmt::format("no profile of this model yet: the cache stays in 16 bits for {} tokens, to calibrate it",
                    kCalibrationTokens));
    recording_ = true;
  } catch (const Error& e) {
    give_up(e.what());
  }
}

// Another context may have calibrated the model by now, or packed a cache that it shares with this one.
void SelfCalibration::use_faster(ggml_tensor** nodes, int n_nodes, const std::set<Cache*>& caches) {
  const std::lock_guard lock(packings().mutex);
  packing_ = packings().find(fits(nodes, n_nodes));
  if (packing_ != nullptr || std::ranges::any_of(caches, is_packed)) stop_recording();
}

// A model without small weights has the fingerprint 0 and cannot be told from others.
Fits SelfCalibration::fits(ggml_tensor** nodes, int n_nodes) const {
  return [=, this](const Profile& profile) {
    return fingerprint_ != 0 && profile.fingerprint == fingerprint_ &&
           fit(profile, caches_of(nodes, n_nodes)) && rotates_alike(profile, nodes, n_nodes);
  };
}

void SelfCalibration::pack(const std::set<Cache*>& caches) {
  try {
    for (Cache* cache : caches) {
      if (cache->packing != nullptr) continue;
      if (!cache->fits(packing_->profile())) throw Error(kNotAllLayers);
      cache->pack(*packing_);
    }
  } catch (const Error& e) {
    give_up(e.what());
  } catch (const std::bad_alloc&) {
    give_up("no memory for a packed cache");
  }
}

void SelfCalibration::finish(ggml_tensor** nodes, int n_nodes) {
  try {
    const std::lock_guard lock(packings().mutex);
    packing_ = look_up(fits(nodes, n_nodes));  // another context or program was faster
    if (packing_ == nullptr) {
      recorder_.set_fingerprint(fingerprint_);
      Packing made(recorder_.finish(fmt::format("model {:016x}", fingerprint_), "first prompts"),
                   settings().budget);
      if (!fit(made.profile(), caches_of(nodes, n_nodes))) throw Error(kNotAllLayers);
      packing_ = packings().add(std::move(made));
      keep(packing_->profile());
    }
  } catch (const Error& e) {
    give_up(e.what());
  } catch (const std::bad_alloc&) {
    give_up("no memory to calibrate this model");
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
