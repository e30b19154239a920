#include <cmath>

#include "codec/bits.h"
#include "codec/hadamard.h"
#include "codec/norm.h"
#include "codec/quantizer.h"
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
  float sum = 0;
  for (int i = 0; i < d; ++i) {
    const float x = std::isfinite(value[i]) ? value[i] : 0.0f;
    y[i] = signs_[i] * x * inverse_rms;
    sum += y[i] * y[i];
  }
  for (int i = 0; i < d; i += rotation_dims_) hadamard(y + i, rotation_dims_);
  const float norm = std::sqrt(sum / static_cast<float>(d));
  const float inverse = norm > 0.0f ? 1.0f / norm : 0.0f;
  const Quantizer& quantizer = Quantizer::of(plan_.v_width);
  std::uint8_t codes[kMaxHeadDim];
  float coded = 0;
  for (int i = 0; i < d; ++i) {
    codes[i] = quantizer.code(y[i] * inverse);
    coded += quantizer.centroid(codes[i]) * quantizer.centroid(codes[i]);
  }
  // Norm correction: the decoded vector gets the length of the value, not of its nearest codes.
  row[0] = value_norm_byte(std::sqrt(sum / coded));
  pack_codes(codes, d, plan_.v_width, row + 1);
}

void ValueCodec::unpack(const std::uint8_t* row, float* centroids) const {
  std::uint8_t codes[kMaxHeadDim];
  unpack_codes(row + 1, plan_.head_dim_v, plan_.v_width, codes);
  const Quantizer& quantizer = Quantizer::of(plan_.v_width);
  for (int i = 0; i < plan_.head_dim_v; ++i) centroids[i] = quantizer.centroid(codes[i]);
}

void ValueCodec::decode(const std::uint8_t* row, float* value) const {
  unpack(row, value);
  const float norm = plan_.v_rms * value_norm(row[0]);
  for (int i = 0; i < plan_.head_dim_v; ++i) value[i] *= norm;
  untransform(value, value);
}

void ValueCodec::untransform(const float* in, float* out) const {
  for (int i = 0; i < plan_.head_dim_v; ++i) out[i] = in[i];
  for (int i = 0; i < plan_.head_dim_v; i += rotation_dims_) hadamard(out + i, rotation_dims_);
  for (int i = 0; i < plan_.head_dim_v; ++i) out[i] *= signs_[i];
}

}  // namespace gtq
