#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/bits.h"
#include "codec/fixed_point.h"
#include "codec/hadamard.h"
#include "codec/norm.h"
#include "gtq/codec.h"
#include "gtq/error.h"

namespace gtq {
namespace {

float finite(float x) { return std::isfinite(x) ? x : 0.0f; }

}  // namespace

std::size_t key_row_bytes(const HeadPlan& plan) {
  return 1 + std::accumulate(plan.widths.begin(), plan.widths.end(), std::size_t{0}) * kGroupDims / 8;
}

KeyCodec::KeyCodec(const HeadPlan& plan, const Rope& rope)
    : plan_(plan), rope_(rope), row_bytes_(key_row_bytes(plan)) {
  if (plan.head_dim_k != rope.head_dim() || plan.head_dim_k > kMaxHeadDim) {
    throw Error("a key head must match its rotation and have at most 1024 dims");
  }
  for (std::size_t g = 0; g < plan.widths.size(); ++g) {
    // Weighted error of y in group g is E_q e^2 = E_q y^2 / scale^2; rotation spreads it over the group.
    double sum = 0;
    for (int j = 0; j < kGroupDims; ++j) {
      const std::size_t slot = g * kGroupDims + j;
      sum +=
          static_cast<double>(plan.weight[slot]) / (static_cast<double>(plan.scale[slot]) * plan.scale[slot]);
    }
    group_weight_.push_back(static_cast<float>(sum / kGroupDims));
  }
  // Only ratios matter: keep them in a range where sums of squares neither overflow nor vanish.
  const float largest = *std::max_element(group_weight_.begin(), group_weight_.end());
  for (float& weight : group_weight_) weight = largest > 0.0f ? weight / largest : 1.0f;
  for (int slot = 0; slot < plan.head_dim_k; ++slot) signs_.push_back(rotation_sign(0, slot));
}

void KeyCodec::turn_means(const float* turn, float* means) const {
  const int d = plan_.head_dim_k;
  for (int c = 0; c < kMeans; ++c) rope_.apply_turn(turn, &plan_.mean_keys[c * d], means + c * d);
}

int KeyCodec::nearer_mean(const float* key, const float* means) const {
  double distance[kMeans] = {};
  for (int slot = 0; slot < plan_.head_dim_k; ++slot) {
    const int dim = plan_.dims[slot];
    for (int c = 0; c < kMeans; ++c) {
      const double e = static_cast<double>(key[dim]) - means[c * plan_.head_dim_k + dim];
      distance[c] += plan_.weight[slot] * e * e;
    }
  }
  return distance[0] < distance[1] ? 0 : 1;
}

void KeyCodec::encode(const float* key, std::int32_t position, std::uint8_t* row) const {
  float turn[kMaxHeadDim];
  rope_.make_turn(position, turn);
  encode(key, turn, row);
}

void KeyCodec::encode(const float* key, const float* turn, std::uint8_t* row) const {
  const int d = plan_.head_dim_k, n_groups = static_cast<int>(plan_.widths.size());
  float clean[kMaxHeadDim], means[kMeans * kMaxHeadDim], y[kMaxHeadDim];
  for (int i = 0; i < d; ++i) clean[i] = finite(key[i]);
  turn_means(turn, means);
  const int c = nearer_mean(clean, means);
  for (int slot = 0; slot < d; ++slot) {
    const int dim = plan_.dims[slot];
    const float residual = signs_[slot] * plan_.scale[slot] * (clean[dim] - means[c * d + dim]);
    y[slot] = std::clamp(residual, -kLargestCoded, kLargestCoded);
  }
  for (int slot = 0; slot < d; slot += kGroupDims) hadamard(y + slot, kGroupDims);
  FixedVector fixed;
  to_fixed(y, d, &fixed);

  KeyFit fit{};
  float weights = 0;
  for (int g = 0; g < n_groups; ++g) {
    fit.yy += group_weight_[g] * static_cast<float>(sum_squares(&fixed.f[g * kGroupDims], kGroupDims));
    weights += group_weight_[g] * kGroupDims;
  }
  int multipliers[kTriedNorms];
  try_key_norms(std::sqrt(fit.yy / weights) * fixed.unit, fixed.unit, multipliers);
  for (int g = 0; g < n_groups; ++g) {
    const UpperCodebook& book = UpperCodebook::of(plan_.widths[g]);
    const float yc_weight = group_weight_[g] * book.step, cc_weight = yc_weight * book.step;
    for (int t = 0; t < kTriedNorms; ++t) {
      const CodeSums sums = sum_codes(book, &fixed.f[g * kGroupDims], kGroupDims, multipliers[t]);
      fit.yc[t] += yc_weight * static_cast<float>(sums.yc);
      fit.cc[t] += cc_weight * static_cast<float>(sums.cc);
    }
  }
  const NormChoice best = choose_key_norm(fit, fixed.unit);
  *row++ = static_cast<std::uint8_t>(c << 7 | best.norm_code);
  for (int g = 0; g < n_groups; ++g) {
    std::uint8_t codes[kGroupDims];
    const UpperCodebook& book = UpperCodebook::of(plan_.widths[g]);
    find_codes(book, &fixed.f[g * kGroupDims], kGroupDims, multipliers[best.tried], codes);
    pack_codes(codes, kGroupDims, plan_.widths[g], row);
    row += 2 * plan_.widths[g];
  }
}

void KeyCodec::unpack(const std::uint8_t* row, float* centroids) const {
  const std::uint8_t* bits = row + 1;
  for (std::size_t g = 0; g < plan_.widths.size(); ++g) {
    std::uint8_t codes[kGroupDims];
    unpack_codes(bits, kGroupDims, plan_.widths[g], codes);
    bits += 2 * plan_.widths[g];
    put_centroids(plan_.widths[g], codes, kGroupDims, centroids + g * kGroupDims);
  }
}

void KeyCodec::decode(const std::uint8_t* row, std::int32_t position, float* key) const {
  float turn[kMaxHeadDim];
  rope_.make_turn(position, turn);
  decode(row, turn, key);
}

void KeyCodec::decode(const std::uint8_t* row, const float* turn, float* key) const {
  const int d = plan_.head_dim_k;
  float y[kMaxHeadDim], mean[kMaxHeadDim];
  unpack(row, y);
  rope_.apply_turn(turn, &plan_.mean_keys[key_mean_index(row[0]) * d], mean);
  const float norm = key_norm(row[0]);
  for (int slot = 0; slot < d; ++slot) {
    if (slot % kGroupDims == 0) hadamard(y + slot, kGroupDims);
    const int dim = plan_.dims[slot];
    key[dim] = mean[dim] + norm * signs_[slot] * y[slot] / plan_.scale[slot];
  }
}

}  // namespace gtq
