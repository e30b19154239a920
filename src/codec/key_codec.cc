#include <algorithm>
#include <cmath>
#include <numeric>

#include "codec/bits.h"
#include "codec/hadamard.h"
#include "codec/norm.h"
#include "codec/quantizer.h"
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
  for (int slot = 0; slot < plan.head_dim_k; ++slot) {
    signs_.push_back(rotation_sign(0, slot));
    query_gain_.push_back(signs_[slot] / plan.scale[slot]);
  }
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

struct KeyCodec::Fit : NormFit {
  std::uint8_t codes[kTriedNorms][kMaxHeadDim];
};

void KeyCodec::quantize(const float* y, const float* inverse, Fit* fit) const {
  for (std::size_t g = 0; g < plan_.widths.size(); ++g) {
    const Quantizer& quantizer = Quantizer::of(plan_.widths[g]);
    // The sums of all norms, interleaved: each waits for its own only.
    float yc[kTriedNorms] = {}, cc[kTriedNorms] = {}, yy = 0;
    for (std::size_t slot = g * kGroupDims; slot < (g + 1) * kGroupDims; ++slot) {
      for (int t = 0; t < kTriedNorms; ++t) {
        const std::uint8_t code = quantizer.code(y[slot] * inverse[t]);
        const float centroid = quantizer.centroid(code);
        fit->codes[t][slot] = code;
        yc[t] += y[slot] * centroid;
        cc[t] += centroid * centroid;
      }
      yy += y[slot] * y[slot];
    }
    for (int t = 0; t < kTriedNorms; ++t) {
      fit->yc[t] += group_weight_[g] * yc[t];
      fit->cc[t] += group_weight_[g] * cc[t];
    }
    fit->yy += group_weight_[g] * yy;
  }
}

void KeyCodec::encode(const float* key, std::int32_t position, std::uint8_t* row) const {
  float turn[kMaxHeadDim];
  rope_.make_turn(position, turn);
  encode(key, turn, row);
}

void KeyCodec::encode(const float* key, const float* turn, std::uint8_t* row) const {
  const int d = plan_.head_dim_k;
  float clean[kMaxHeadDim], means[kMeans * kMaxHeadDim], y[kMaxHeadDim];
  for (int i = 0; i < d; ++i) clean[i] = finite(key[i]);
  turn_means(turn, means);
  const int c = nearer_mean(clean, means);
  float sum = 0, weights = 0;
  for (std::size_t g = 0; g < plan_.widths.size(); ++g) {
    float* group = y + g * kGroupDims;
    float group_sum = 0;
    for (int j = 0; j < kGroupDims; ++j) {
      const std::size_t slot = g * kGroupDims + j;
      const int dim = plan_.dims[slot];
      group[j] = signs_[slot] * plan_.scale[slot] * (clean[dim] - means[c * d + dim]);
      group_sum += group[j] * group[j];
    }
    hadamard(group, kGroupDims);
    sum += group_weight_[g] * group_sum;
    weights += group_weight_[g] * kGroupDims;
  }

  float inverse[kTriedNorms];
  try_norms(std::sqrt(sum / weights), inverse);
  Fit fit;
  static_cast<NormFit&>(fit) = {};
  quantize(y, inverse, &fit);
  const NormChoice best = choose_norm(fit);
  *row++ = static_cast<std::uint8_t>(c << 7 | best.norm_code);
  for (std::size_t g = 0; g < plan_.widths.size(); ++g) {
    pack_codes(fit.codes[best.tried] + g * kGroupDims, kGroupDims, plan_.widths[g], row);
    row += 2 * plan_.widths[g];
  }
}

void KeyCodec::unpack(const std::uint8_t* row, float* centroids) const {
  const std::uint8_t* bits = row + 1;
  for (std::size_t g = 0; g < plan_.widths.size(); ++g) {
    std::uint8_t codes[kGroupDims];
    unpack_codes(bits, kGroupDims, plan_.widths[g], codes);
    bits += 2 * plan_.widths[g];
    const Quantizer& quantizer = Quantizer::of(plan_.widths[g]);
    for (int j = 0; j < kGroupDims; ++j) centroids[g * kGroupDims + j] = quantizer.centroid(codes[j]);
  }
}

void KeyCodec::decode(const std::uint8_t* row, std::int32_t position, float* key) const {
  const int d = plan_.head_dim_k;
  float y[kMaxHeadDim], mean[kMaxHeadDim];
  unpack(row, y);
  rope_.rotate(&plan_.mean_keys[key_mean_index(row[0]) * d], position, mean);
  const float norm = key_norm(row[0]);
  for (int slot = 0; slot < d; ++slot) {
    if (slot % kGroupDims == 0) hadamard(y + slot, kGroupDims);
    const int dim = plan_.dims[slot];
    key[dim] = mean[dim] + norm * signs_[slot] * y[slot] / plan_.scale[slot];
  }
}

void KeyCodec::transform_query(const float* query, float* out) const {
  for (int slot = 0; slot < plan_.head_dim_k; ++slot) {
    out[slot] = query_gain_[slot] * query[plan_.dims[slot]];
  }
  for (int slot = 0; slot < plan_.head_dim_k; slot += kGroupDims) hadamard(out + slot, kGroupDims);
}

}  // namespace gtq
