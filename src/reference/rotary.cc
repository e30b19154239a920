#include "reference/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace gtq::reference {
namespace {

// YaRN (Peng et al. 2023): index of the block that turns `beta` times within the trained context.
double yarn_block(const RopeParams& params, double beta) {
  const double base = params.freq_base;
  return params.n_rot * std::log(params.n_ctx_orig / (beta * 2 * std::numbers::pi)) / (2 * std::log(base));
}

// Share of the original frequency that block i keeps: 1 for fast blocks, 0 for slow ones, a ramp between.
double yarn_share(const RopeParams& params, int i) {
  const double low = std::max(0.0, std::floor(yarn_block(params, params.beta_fast)));
  const double high = std::min(params.n_rot - 1.0, std::ceil(yarn_block(params, params.beta_slow)));
  return 1 - std::clamp((i - low) / std::max(0.001, high - low), 0.0, 1.0);
}

double block_theta(const RopeParams& params, int i) {
  double theta = std::pow(static_cast<double>(params.freq_base), -2.0 * i / params.n_rot);
  if (!params.freq_factors.empty()) theta /= params.freq_factors[i];
  const double interpolated = theta * params.freq_scale;
  if (params.ext_factor == 0) return interpolated;
  const double mix = yarn_share(params, i) * params.ext_factor;
  return interpolated * (1 - mix) + theta * mix;
}

}  // namespace

std::vector<RopeBlock> rope_blocks(int head_dim, const RopeParams& params) {
  const int n_rotating = params.n_rot / 2;
  std::vector<RopeBlock> blocks(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    blocks[i] = {2 * i, 2 * i + 1, 0};
    if (i >= n_rotating) continue;
    if (params.mode == RopeMode::kNeox) blocks[i] = {i, i + n_rotating, 0};
    blocks[i].theta = block_theta(params, i);
  }
  return blocks;
}

std::vector<double> rotate(const std::vector<double>& in, const std::vector<RopeBlock>& blocks,
                           std::int64_t position) {
  std::vector<double> out(in.size());
  for (const RopeBlock& block : blocks) {
    const double angle = block.theta * static_cast<double>(position);
    const double x = in[block.first], y = in[block.second];
    out[block.first] = x * std::cos(angle) - y * std::sin(angle);
    out[block.second] = x * std::sin(angle) + y * std::cos(angle);
  }
  return out;
}

}  // namespace gtq::reference
