// From the rows a model produced on a text to a Profile. Sums are in double.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "gtq/profile.h"

namespace gtq {

// Collects post-RoPE queries and keys, and values, of one layer. Keys are kept (float) until finish(), since
// the mean keys must be known before residual energies can be summed.
class LayerCalibrator {
 public:
  LayerCalibrator(int layer, int n_q_heads, int n_kv_heads, int head_dim_k, int head_dim_v,
                  const RopeParams& rope);
  ~LayerCalibrator();
  LayerCalibrator(LayerCalibrator&&) noexcept;

  // One token: [n_q_heads][head_dim_k], [n_kv_heads][head_dim_k] and [n_kv_heads][head_dim_v] floats.
  void add_query(const float* q);
  void add_key(const float* k, std::int32_t position);
  void add_value(const float* v);

  std::int64_t n_tokens() const;  // keys seen
  // Throws Error when a sum is missing, not finite, or too few tokens (< 64) were seen.
  LayerProfile finish() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace gtq
