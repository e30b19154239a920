#include "cpu/row_tables.h"

#include <algorithm>
#include <array>

#include "codec/fixed_point.h"

namespace gtq::cpu {
namespace {

VectorCodebook make_vectors(const UpperCodebook& upper) {
  VectorCodebook book{};
  for (int i = 0; i + 1 < upper.n_levels; ++i) std::fill_n(book.thresholds[i], 16, upper.thresholds[i]);
  for (int half = 0; half < 2; ++half) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(book.levels[half]);
    for (int i = 0; i < 32; ++i) bytes[i] = upper.levels[16 * half + i % 16];
  }
  book.step = upper.step;
  return book;
}

}  // namespace

RowTables::RowTables(const HeadPlan& plan, const Rope& rope, const KeyCodec& key_codec,
                     const ValueCodec& value_codec) {
  const int d = plan.head_dim_k;
  weight_.resize(d);
  const float largest = *std::max_element(plan.weight.begin(), plan.weight.end());
  for (int slot = 0; slot < d; ++slot) {
    key_gain_.push_back(rotation_sign(0, slot) * plan.scale[slot]);
    weight_[plan.dims[slot]] = largest > 0.0f ? plan.weight[slot] / largest : 0.0f;
  }
  for (int dim = 0; dim < plan.head_dim_v; ++dim) {
    value_gain_.push_back(rotation_sign(1, dim) * (1.0f / plan.v_rms));
  }
  key_.codec = &key_codec;
  key_.head_dim = d;
  key_.n_neox = rope.second(0) == 1 ? 0 : rope.second(0);
  key_.mean_keys = plan.mean_keys.data();
  key_.dims = plan.dims.data();
  key_.widths = plan.widths.data();
  key_.gain = key_gain_.data();
  key_.weight = weight_.data();
  key_.group_weight = key_codec.group_weights().data();
  for (const float weight : key_codec.group_weights()) key_.total_weight += weight * kGroupDims;
  key_.one_mean = std::equal(plan.mean_keys.begin(), plan.mean_keys.begin() + d, plan.mean_keys.begin() + d);
  value_.codec = &value_codec;
  value_.head_dim = plan.head_dim_v;
  value_.width = plan.v_width;
  value_.rotation_dims = plan.head_dim_v & -plan.head_dim_v;
  value_.gain = value_gain_.data();
}

TurnAngles turn_angles(const Rope& rope) {
  const std::vector<double>& theta = rope.thetas();
  return {&rope, theta.data(), rope.n_blocks(), *std::max_element(theta.begin(), theta.end())};
}

const VectorCodebook* vector_codebooks() {
  static const auto books = [] {
    std::array<VectorCodebook, kMaxWidth + 1> all{};
    for (int width = kMinWidth; width <= kMaxWidth; ++width)
      all[width] = make_vectors(UpperCodebook::of(width));
    return all;
  }();
  return books.data();
}

}  // namespace gtq::cpu
