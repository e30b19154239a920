#include "profile/profile_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "gtq/error.h"

namespace gtq {
namespace {

std::string head_problem(const LayerProfile& layer) {
  if (layer.layer < 0 || layer.layer > kProfileMaxLayer) {
    return fmt::format("the layer index is not in 0..{}", kProfileMaxLayer);
  }
  if (layer.n_kv_heads < 1 || layer.n_kv_heads > kProfileMaxHeads) {
    return fmt::format("n_kv_heads is {}, not in 1..{}", layer.n_kv_heads, kProfileMaxHeads);
  }
  if (layer.n_q_heads < 1 || layer.n_q_heads > kProfileMaxHeads || layer.n_q_heads % layer.n_kv_heads != 0) {
    return fmt::format("n_q_heads is {}, not a multiple of the {} KV heads in 1..{}", layer.n_q_heads,
                       layer.n_kv_heads, kProfileMaxHeads);
  }
  for (const int head_dim : {layer.head_dim_k, layer.head_dim_v}) {
    if (head_dim < 16 || head_dim > kProfileMaxHeadDim || head_dim % 16 != 0) {
      return fmt::format("a head dimension is {}, not a multiple of 16 in 16..{}", head_dim,
                         kProfileMaxHeadDim);
    }
  }
  return {};
}

std::string rope_problem(const RopeParams& rope, int head_dim) {
  if (!std::isfinite(rope.ext_factor) || !std::isfinite(rope.beta_fast) || !std::isfinite(rope.beta_slow)) {
    return "a YaRN parameter is not finite";
  }
  if (rope.n_ctx_orig < 0) return "n_ctx_orig is below 0";
  try {
    static_cast<void>(Rope(head_dim, rope));
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

std::string vector_problem(const char* name, const std::vector<float>& values, std::size_t size,
                           bool negative) {
  if (values.size() != size) return fmt::format("{} has {} numbers, not {}", name, values.size(), size);
  for (const float x : values) {
    if (!std::isfinite(x)) return fmt::format("{} holds a number that is not finite", name);
    if (x < 0 && !negative) return fmt::format("{} holds a number below 0", name);
  }
  return {};
}

std::string with_layer(const LayerProfile& layer, const std::string& problem) {
  return problem.empty() ? problem : fmt::format("layer {}: {}", layer.layer, problem);
}

}  // namespace

std::string shape_problem(const LayerProfile& layer) {
  std::string problem = head_problem(layer);
  if (problem.empty()) problem = rope_problem(layer.rope, layer.head_dim_k);
  return with_layer(layer, problem);
}

std::string layer_problem(const LayerProfile& layer) {
  std::string problem = shape_problem(layer);
  if (!problem.empty()) return problem;
  const auto n_heads = static_cast<std::size_t>(layer.n_kv_heads);
  const auto head_dim = static_cast<std::size_t>(layer.head_dim_k);
  const std::size_t n_energies = n_heads * (head_dim / 2);
  problem = vector_problem("energy_q", layer.energy_q, n_energies, false);
  if (problem.empty()) problem = vector_problem("energy_k", layer.energy_k, n_energies, false);
  if (problem.empty()) problem = vector_problem("energy_e", layer.energy_e, n_energies, false);
  if (problem.empty()) {
    problem = vector_problem("mean_keys", layer.mean_keys, kMeans * n_heads * head_dim, true);
  }
  if (problem.empty()) problem = vector_problem("rms_v", layer.rms_v, n_heads, false);
  return with_layer(layer, problem);
}

std::string profile_problem(const Profile& profile) {
  if (profile.n_tokens < 1) return fmt::format("n_tokens is {}, not above 0", profile.n_tokens);
  if (profile.layers.empty()) return "it holds no layers";
  for (std::size_t i = 0; i < profile.layers.size(); ++i) {
    if (i > 0 && profile.layers[i].layer <= profile.layers[i - 1].layer) return "its layers are not ascending";
    const std::string problem = layer_problem(profile.layers[i]);
    if (!problem.empty()) return problem;
  }
  return {};
}

}  // namespace gtq
