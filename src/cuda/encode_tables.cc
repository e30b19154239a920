#include "cuda/encode_tables.h"

#include <algorithm>
#include <cmath>

#include "codec/fixed_point.h"
#include "codec/norm.h"

namespace gtq::cuda {
namespace {

NormTable norm_table(int lowest, int highest, int of_one, float (&norm_of)(std::uint8_t),
                     float (&start_of)(int)) {
  NormTable table{};
  table.lowest = lowest;
  table.highest = highest;
  table.of_one = of_one;
  for (int code = 0; code < 256; ++code) table.norms[code] = norm_of(static_cast<std::uint8_t>(code));
  for (int code = lowest + 1; code <= 256; ++code) table.starts[code] = start_of(code);
  return table;
}

std::uint32_t grid_cell(const UpperCodebook& book, int start) {
  constexpr unsigned kNoThreshold = 255;
  int index = 0;
  while (index + 1 < book.n_levels && book.thresholds[index] < start) ++index;
  const bool last = index + 1 == book.n_levels;
  const int above = last ? 0 : book.thresholds[index] + 1 - start;
  const unsigned offset = last || above >= kGridStep ? kNoThreshold : static_cast<unsigned>(above);
  return book.levels[index] | static_cast<unsigned>(book.levels[last ? index : index + 1]) << 8 |
         static_cast<unsigned>(index) << 16 | offset << 24;
}

// Exponent of the power of two that brings the largest of these below 1.
int exponent_above(const std::vector<float>& positive) {
  int exponent = 0;
  std::frexp(*std::max_element(positive.begin(), positive.end()), &exponent);
  return exponent;
}

}  // namespace

NormTable key_norm_table() { return norm_table(0, 127, key_norm_code(1.0f), key_norm, key_norm_start); }
NormTable value_norm_table() { return norm_table(1, 255, value_norm_byte(1.0f), value_norm, value_norm_start); }

LevelGrid level_grid() {
  LevelGrid grid{};
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    const UpperCodebook& book = UpperCodebook::of(width);
    for (int i = 0; i < kGridCells; ++i) grid.cells[width - 1][i] = grid_cell(book, kGridStep * i);
  }
  return grid;
}

EncodeHead encode_head(const LayerCodec& codec, int kv_head) {
  const HeadPlan& plan = codec.plan(kv_head);
  const auto first = plan.mean_keys.begin(), second = first + plan.head_dim_k;
  EncodeHead head{};
  for (const float weight : codec.key_codec(kv_head).group_weights()) head.total_weight += weight * kGroupDims;
  head.n_centred = static_cast<std::int32_t>(std::count(plan.centred.begin(), plan.centred.end(), 1));
  head.one_mean = std::equal(first, second, second) ? 1 : 0;
  return head;
}

std::vector<KeyRun> key_runs(const LayerCodec& codec, int kv_head) {
  const HeadPlan& plan = codec.plan(kv_head);
  const std::vector<float>& group_weights = codec.key_codec(kv_head).group_weights();
  // Distances compare the same, and their sums in float stay far from its limits.
  const int exponent = exponent_above(plan.weight);
  std::vector<KeyRun> runs(kMostRuns);
  for (KeyRun& run : runs) run.width = kMinWidth;
  std::uint32_t offset = 0;
  for (int slot = 0; slot < plan.head_dim_k; ++slot) {
    const int group = slot / kGroupDims, i = slot % 4;
    KeyRun& run = runs[slot / 4];
    run.dims[i] = plan.dims[slot];
    run.gain[i] = rotation_sign(0, slot) * plan.scale[slot];
    run.weight[i] = std::ldexp(plan.weight[slot], -exponent);
    run.width = plan.widths[group];
    run.group_weight = group_weights[group];
    run.yc_weight = run.group_weight * codebook_step(run.width);
    run.cc_weight = run.yc_weight * codebook_step(run.width);
    run.offset = offset;
    if (slot % kGroupDims == kGroupDims - 1) offset += 128 * plan.widths[group];
  }
  return runs;
}

std::vector<CentredPair> centred_pairs(const LayerCodec& codec, int kv_head) {
  const HeadPlan& plan = codec.plan(kv_head);
  const Rope& rope = codec.rope();
  std::vector<CentredPair> pairs;
  std::vector<int> slot_of_dim(plan.head_dim_k);
  for (int slot = 0; slot < plan.head_dim_k; ++slot) slot_of_dim[plan.dims[slot]] = slot;
  for (int i = 0; i < rope.n_blocks(); ++i) {
    if (plan.centred[i] == 0) continue;
    CentredPair pair{rope.theta(i), {}, slot_of_dim[rope.first(i)]};
    for (int c = 0; c < kMeans; ++c) {
      pair.mean[c][0] = plan.mean_keys[c * plan.head_dim_k + rope.first(i)];
      pair.mean[c][1] = plan.mean_keys[c * plan.head_dim_k + rope.second(i)];
    }
    pairs.push_back(pair);
  }
  pairs.resize(rope.n_blocks());
  return pairs;
}

std::vector<float4> value_gains(const HeadPlan& plan) {
  const float inverse_rms = 1.0f / plan.v_rms;
  std::vector<float4> gains(kMostRuns);
  const auto gain = [&](int dim) { return rotation_sign(1, dim) * inverse_rms; };
  for (int dim = 0; dim < plan.head_dim_v; dim += 4) {
    gains[dim / 4] = {gain(dim), gain(dim + 1), gain(dim + 2), gain(dim + 3)};
  }
  return gains;
}

}  // namespace gtq::cuda
