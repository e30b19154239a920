#include "gtq/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "gtq/error.h"

namespace gtq {
namespace {

// Rope_block at which a wavelength turns `n_turns` times within the trained context (YaRN, Peng et al. 2023,
// eq. 17).
double yarn_block(const RopeParams& p, double n_turns) {
  return p.n_rot * std::log(p.n_ctx_orig / (n_turns * 2 * std::numbers::pi)) / (2 * std::log(p.freq_base));
}

// Share of the original frequency that block keeps under YaRN; the rest is interpolated by freq_scale.
double yarn_ramp(const RopeParams& p, int block) {
  const double low = std::max(0.0, std::floor(yarn_block(p, p.beta_fast)));
  const double high = std::min(p.n_rot - 1.0, std::ceil(yarn_block(p, p.beta_slow)));
  const double y = (block - low) / std::max(0.001, high - low);
  return 1.0 - std::clamp(y, 0.0, 1.0);
}

double block_theta(const RopeParams& p, int block) {
  const double factor = p.freq_factors.empty() ? 1.0 : p.freq_factors[block];
  const double original = std::pow(static_cast<double>(p.freq_base), -2.0 * block / p.n_rot) / factor;
  const double interpolated = p.freq_scale * original;
  if (p.ext_factor == 0.0f) return interpolated;
  const double mix = yarn_ramp(p, block) * p.ext_factor;
  return interpolated * (1 - mix) + original * mix;
}

void check(int head_dim, const RopeParams& p) {
  if (head_dim <= 0 || head_dim % 16 != 0) {
    throw Error("head_dim must be a positive multiple of 16");
  }
  if (p.n_rot < 0 || p.n_rot > head_dim || p.n_rot % 2 != 0) {
    throw Error("the number of rotated dims must be even and at most head_dim");
  }
  if (p.mode != RopeMode::kInterleaved && p.mode != RopeMode::kNeox) {
    throw Error("this RoPE mode is not supported; gtq knows interleaved and NEOX rotation");
  }
  if (!(p.freq_base > 1.0f) || !std::isfinite(p.freq_base) || !(p.freq_scale > 0.0f) ||
      !std::isfinite(p.freq_scale)) {
    throw Error("the RoPE base must be above 1 and its scale positive");
  }
  if (p.ext_factor != 0.0f && p.n_ctx_orig <= 0) {
    throw Error("YaRN needs the model's original context length");
  }
  if (!p.freq_factors.empty() && p.freq_factors.size() != static_cast<std::size_t>(p.n_rot / 2)) {
    throw Error("RoPE frequency factors must be one per rotated pair of dims");
  }
  for (const float factor : p.freq_factors) {
    if (!(factor > 0.0f) || !std::isfinite(factor)) throw Error("RoPE frequency factors must be positive");
  }
}

}  // namespace

Rope::Rope(int head_dim, const RopeParams& params) : head_dim_(head_dim) {
  check(head_dim, params);
  const int n_rotated = params.n_rot / 2;
  for (int i = 0; i < n_blocks(); ++i) {
    const bool neox = i < n_rotated && params.mode == RopeMode::kNeox;
    first_.push_back(neox ? i : 2 * i);
    second_.push_back(neox ? i + n_rotated : 2 * i + 1);
    theta_.push_back(i < n_rotated ? block_theta(params, i) : 0.0);
  }
}

void Rope::rotate(const float* in, std::int64_t position, float* out) const {
  std::vector<float> turn(2 * static_cast<std::size_t>(n_blocks()));
  make_turn(position, turn.data());
  apply_turn(turn.data(), in, out);
}

void Rope::make_turn(std::int64_t position, float* turn) const {
  for (int i = 0; i < n_blocks(); ++i) {
    const double angle = theta_[i] * static_cast<double>(position);
    turn[i] = static_cast<float>(std::cos(angle));
    turn[n_blocks() + i] = static_cast<float>(std::sin(angle));
  }
}

void Rope::apply_turn(const float* turn, const float* in, float* out) const {
  for (int i = 0; i < n_blocks(); ++i) {
    const float c = turn[i], s = turn[n_blocks() + i];
    const float x = in[first_[i]];
    const float y = in[second_[i]];
    out[first_[i]] = x * c - y * s;
    out[second_[i]] = x * s + y * c;
  }
}

}  // namespace gtq
