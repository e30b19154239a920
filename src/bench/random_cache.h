// Random layers, filled caches and calls: what the benchmarks and the tests of src/cpu attend.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "gtq/attention.h"

namespace gtq::bench {

using Random = std::mt19937;

inline int random_int(Random& random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(random);
}
inline float random_normal(Random& random, float sigma = 1.0f) {
  return std::normal_distribution<float>(0.0f, sigma)(random);
}

// A layer whose energies fit its mean keys; about `centred_share` of the rope_blocks have a mean key.
inline LayerProfile random_layer(Random& random, int n_q_heads, int n_kv_heads, int head_dim_k, int head_dim_v,
                                 float centred_share) {
  LayerProfile layer;
  layer.n_q_heads = n_q_heads;
  layer.n_kv_heads = n_kv_heads;
  layer.head_dim_k = head_dim_k;
  layer.head_dim_v = head_dim_v;
  layer.rope.mode = random_int(random, 0, 1) == 0 ? RopeMode::kInterleaved : RopeMode::kNeox;
  layer.rope.n_rot = random_int(random, 0, 3) == 0 ? head_dim_k / 2 : head_dim_k;
  layer.rope.freq_base = random_int(random, 0, 1) == 0 ? 1e4f : 5e5f;
  const std::size_t n_blocks = head_dim_k / 2;
  layer.mean_keys.assign(static_cast<std::size_t>(kMeans) * n_kv_heads * head_dim_k, 0.0f);
  const Rope rope(head_dim_k, layer.rope);
  for (int h = 0; h < n_kv_heads; ++h) {
    layer.rms_v.push_back(std::exp(random_normal(random, 0.5f)));
    for (std::size_t i = 0; i < n_blocks; ++i) {
      const bool centred = std::uniform_real_distribution<float>(0, 1)(random) < centred_share;
      const float energy_e = std::exp(random_normal(random));
      layer.energy_q.push_back(std::exp(random_normal(random)));
      layer.energy_e.push_back(energy_e);
      layer.energy_k.push_back(energy_e * (centred ? 5.0f : 1.0f));
      for (int c = 0; c < kMeans; ++c) {
        float* mean = &layer.mean_keys[(static_cast<std::size_t>(c) * n_kv_heads + h) * head_dim_k];
        for (const int dim : {rope.first(static_cast<int>(i)), rope.second(static_cast<int>(i))}) {
          mean[dim] = random_normal(random, std::sqrt(2 * energy_e));
        }
      }
    }
  }
  return layer;
}

// Pages of one stream with random token rows, and the decoded vectors they stand for.
struct Cache {
  std::vector<std::uint8_t> key_pages, value_pages;
  std::vector<std::int32_t> positions;
  PagePositions page_positions;
};

// positions decides which cells are filled. First tokens (position 0) get mean index 0, with mixed_means some
// others too.
inline Cache random_cache(Random& random, const LayerCodec& codec, std::vector<std::int32_t> positions,
                          bool mixed_means) {
  Cache cache;
  const auto n_cells = static_cast<std::int64_t>(positions.size());
  const std::int64_t n_pages = (n_cells + kPageTokens - 1) / kPageTokens;
  const auto fill = [&](std::vector<std::uint8_t>& bytes, std::size_t n) {
    bytes.resize(n);
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  };
  fill(cache.key_pages, n_pages * codec.key_page_bytes());
  fill(cache.value_pages, n_pages * codec.value_page_bytes());
  std::vector<std::uint8_t> keys, values;
  for (std::int64_t cell = 0; cell < n_cells; ++cell) {
    if (positions[cell] == kEmptyCell) continue;
    fill(keys, codec.key_token_bytes());
    fill(values, codec.value_token_bytes());
    std::size_t key_at = 0, value_at = 0;
    for (int h = 0; h < codec.n_kv_heads(); ++h) {
      const bool first_mean = positions[cell] == 0 || (mixed_means && random_int(random, 0, 3) == 0);
      keys[key_at] = static_cast<std::uint8_t>((first_mean ? 0 : 128) | random_int(random, 32, 60));
      values[value_at] = static_cast<std::uint8_t>(random_int(random, 140, 170));
      key_at += codec.key_codec(h).row_bytes();
      value_at += codec.value_codec(h).row_bytes();
    }
    codec.store_key_rows(cache.key_pages.data(), cell, keys.data());
    codec.store_value_rows(cache.value_pages.data(), cell, values.data());
  }
  cache.positions = std::move(positions);
  cache.page_positions.update(cache.positions.data(), n_cells);
  return cache;
}

inline std::vector<std::int32_t> consecutive(std::int64_t n, std::int32_t start) {
  std::vector<std::int32_t> positions(n);
  for (std::int64_t j = 0; j < n; ++j) positions[j] = start + static_cast<std::int32_t>(j);
  return positions;
}

// A call on `cache` with contiguous q and out, [row][head][dim].
inline AttentionCall make_call(const LayerCodec& codec, const Cache& cache, int n_q_heads, std::int64_t n_rows,
                               const std::vector<float>& q, std::vector<float>& out) {
  AttentionCall call;
  call.codec = &codec;
  call.key_pages = cache.key_pages.data();
  call.value_pages = cache.value_pages.data();
  call.positions = cache.positions.data();
  call.page_positions = &cache.page_positions;
  call.kv_len = static_cast<std::int64_t>(cache.positions.size());
  call.n_q_heads = n_q_heads;
  call.n_rows = n_rows;
  call.q = q.data();
  call.q_head_stride = codec.head_dim_k() * sizeof(float);
  call.q_row_stride = n_q_heads * call.q_head_stride;
  out.assign(static_cast<std::size_t>(n_rows) * n_q_heads * codec.head_dim_v(), 0.0f);
  call.out = out.data();
  call.out_head_stride = codec.head_dim_v() * sizeof(float);
  call.out_row_stride = n_q_heads * call.out_head_stride;
  call.sm_scale = 1.0f / std::sqrt(static_cast<float>(codec.head_dim_k()));
  return call;
}

// 64-byte aligned memory filled with NaN, so that nothing may be read before it was written.
class Workspace {
 public:
  explicit Workspace(std::size_t n_bytes) : memory_(n_bytes / sizeof(float) + 32) {
    std::fill(memory_.begin(), memory_.end(), std::numeric_limits<float>::quiet_NaN());
  }
  void* data() {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    return reinterpret_cast<void*>((address + 63) / 64 * 64);
  }

 private:
  std::vector<float> memory_;
};

}  // namespace gtq::bench
