// Without GTQ_PROFILE: which profile the caches of one context are packed with. That of the model in the user's
// folder of profiles, else one made here from the first tokens, while the cache stays staged in 16 bits.
#pragma once

#include <cstdint>
#include <functional>
#include <set>

#include "plugin/cache.h"
#include "plugin/recorder.h"

namespace gtq::plugin {

// docs/fidelity.md, "Calibration": more tokens hardly gain, and a short chat should reach it.
inline constexpr std::int64_t kCalibrationTokens = 512;

class SelfCalibration {
 public:
  // Call before a graph runs: packs its caches as soon as the profile is known. True: the graph is to be
  // recorded, node by node, and counted when it is done.
  bool prepare(ggml_tensor** nodes, int n_nodes);
  Recorder& recorder() { return recorder_; }
  void count(ggml_tensor** nodes, int n_nodes);

 private:
  // Whether a profile is of the model of this graph, as it runs here, and has all layers of its caches.
  std::function<bool(const Profile&)> fits(ggml_tensor** nodes, int n_nodes) const;
  void identify(ggml_tensor** nodes, int n_nodes);
  void pack(const std::set<Cache*>& caches);
  void use_faster(ggml_tensor** nodes, int n_nodes, const std::set<Cache*>& caches);
  void finish(ggml_tensor** nodes, int n_nodes);
  void stop_recording();
  void give_up(const char* why);

  bool identified_ = false;
  std::uint64_t fingerprint_ = 0;
  const Packing* packing_ = nullptr;  // lives as long as the process
  bool recording_ = false;
  std::int64_t n_tokens_ = 0;  // recorded
  Recorder recorder_;
};

}  // namespace gtq::plugin
