// Profiles of random numbers for tests, the same ones on every machine.
#pragma once

#include <cmath>
#include <cstdint>
#include <string>

#include "gtq/profile.h"

namespace gtq::testing {

// splitmix64; not <random>, whose distributions differ between standard libraries.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, 1).
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }

 private:
  std::uint64_t state_;
};

struct Shape {
  int n_q_heads = 4;
  int n_kv_heads = 2;
  int head_dim_k = 32;
  int head_dim_v = 16;
  int n_rot = 32;
};

// Energies spread over six decades, E_e up to 1.2 E_k.
inline LayerProfile random_layer(int index, const Shape& shape, Random& random) {
  LayerProfile layer;
  layer.layer = index;
  layer.n_q_heads = shape.n_q_heads;
  layer.n_kv_heads = shape.n_kv_heads;
  layer.head_dim_k = shape.head_dim_k;
  layer.head_dim_v = shape.head_dim_v;
  layer.rope.n_rot = shape.n_rot;
  layer.rope.mode = index % 2 == 0 ? RopeMode::kInterleaved : RopeMode::kNeox;
  const auto decades = [&] { return std::pow(10.0, random.uniform(-3, 3)); };
  for (int i = 0; i < shape.n_kv_heads * shape.head_dim_k / 2; ++i) {
    const double energy_k = decades();
    layer.energy_q.push_back(static_cast<float>(decades()));
    layer.energy_k.push_back(static_cast<float>(energy_k));
    layer.energy_e.push_back(static_cast<float>(energy_k * random.uniform(0, 1.2)));
  }
  for (int i = 0; i < kMeans * shape.n_kv_heads * shape.head_dim_k; ++i) {
    layer.mean_keys.push_back(static_cast<float>(random.uniform(-3, 3)));
  }
  for (int h = 0; h < shape.n_kv_heads; ++h) {
    layer.rms_v.push_back(static_cast<float>(random.uniform(0.1, 2)));
  }
  return layer;
}

// Two layers of unlike shape; the second has every optional part.
inline Profile random_profile(std::uint64_t seed) {
  Random random(seed);
  Profile profile;
  profile.model_name = "a model";
  profile.fingerprint = random.next();
  profile.n_tokens = 2048;
  profile.text_source = "default";
  profile.layers.push_back(random_layer(0, {}, random));
  profile.layers.push_back(random_layer(3, {3, 1, 48, 32, 16}, random));
  RopeParams& rope = profile.layers.back().rope;
  rope.freq_base = 500000.0f;
  rope.freq_scale = 0.25f;
  rope.ext_factor = 1.0f;
  rope.beta_fast = 31.0f;
  rope.beta_slow = 2.0f;
  rope.n_ctx_orig = 8192;
  for (int i = 0; i < 8; ++i) rope.freq_factors.push_back(static_cast<float>(1 + i));
  return profile;
}

}  // namespace gtq::testing
