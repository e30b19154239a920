#include <algorithm>
#include <cmath>

#include "codec/bits.h"
#include "codec/fixed_point.h"
#include "codec/hadamard.h"
#include "codec/norm.h"
#include "gtq/codec.h"
#include "gtq/error.h"

namespace gtq {

std::size_t value_row_bytes(const HeadPlan& plan) {
  return 1 + static_cast<std::size_t>(plan.head_dim_v) * plan.v_width / 8;
}

ValueCodec::ValueCodec(const HeadPlan& plan)
    : plan_(plan), row_bytes_(value_row_bytes(plan)), rotation_dims_(plan.head_dim_v & -plan.head_dim_v) {
  if (plan.head_dim_v <= 0 || plan.head_dim_v % kGroupDims != 0 || plan.head_dim_v > kMaxHeadDim) {
    throw Error("a value head must have a multiple of 16 dims, at most 1024");
  }
  for (int i = 0; i < plan.head_dim_v; ++i) signs_.push_back(rotation_sign(1, i));
}

void ValueCodec::encode(const float* value, std::uint8_t* row) const {
  const int d = plan_.head_dim_v;
  const float inverse_rms = 1.0f / plan_.v_rms;
  float y[kMaxHeadDim];
  for (int i = 0; i < d; ++i) {
    const float x = std::isfinite(value[i]) ? value[i] : 0.0f;
    y[i] = std::clamp(signs_[i] * x * inverse_rms, -kLargestCoded, kLargestCoded);
  }
  for (int i = 0; i < d; i += rotation_dims_) hadamard(y + i, rotation_dims_);
  FixedVector fixed;
  to_fixed(y, d, &fixed);
  const std::int16_t* f = fixed.f;

  ValueFit fit;
  fit.yy = sum_squares(f, d);
  int multipliers[kTriedNorms];
  const float rms = std::sqrt(static_cast<float>(fit.yy) / static_cast<float>(d)) * fixed.unit;
  try_value_norms(rms, fixed.unit, multipliers);
  const UpperCodebook& book = UpperCodebook::of(plan_.v_width);
  for (int t = 0; t < kTriedNorms; ++t) {
    const CodeSums sums = sum_codes(book, f, d, multipliers[t]);
    fit.yc[t] = sums.yc;
    fit.cc[t] = sums.cc;
  }
  const NormChoice best = choose_value_norm(fit, fixed.unit, book.step);
  std::uint8_t codes[kMaxHeadDim];
  find_codes(book, f, d, multipliers[best.tried], codes);
  row[0] = best.norm_code;
  pack_codes(codes, d, plan_.v_width, row + 1);
}

void ValueCodec::decode(const std::uint8_t* row, float* value) const {
  std::uint8_t codes[kMaxHeadDim];
  unpack_codes(row + 1, plan_.head_dim_v, plan_.v_width, codes);
  put_centroids(plan_.v_width, codes, plan_.head_dim_v, value);
  const float norm = plan_.v_rms * value_norm(row[0]);
  for (int i = 0; i < plan_.head_dim_v; ++i) value[i] *= norm;
  for (int i = 0; i < plan_.head_dim_v; i += rotation_dims_) hadamard(value + i, rotation_dims_);
  for (int i = 0; i < plan_.head_dim_v; ++i) value[i] *= signs_[i];
}

}  // namespace gtq
