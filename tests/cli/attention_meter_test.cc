#include "attention_meter.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "divergence.h"

namespace gtq::cli {
namespace {

constexpr int kHeadDim = 16;  // the least that Rope takes; cases below use the first two dims

RopeParams no_rotation() {
  RopeParams rope;
  rope.n_rot = 0;
  return rope;
}

// Vectors behind a RecordedRows.
struct Sequence {
  RecordedRows rows = {};
  std::vector<float> queries, keys, values;
  std::vector<std::int32_t> positions;

  Sequence(int n_tokens, int n_q_heads, int n_kv_heads) {
    queries.resize(n_tokens * n_q_heads * kHeadDim);
    keys.resize(n_tokens * n_kv_heads * kHeadDim);
    values.resize(keys.size());
    for (int t = 0; t < n_tokens; ++t) positions.push_back(t);
    rows.n_q_heads = n_q_heads;
    rows.n_kv_heads = n_kv_heads;
    rows.head_dim_k = rows.head_dim_v = kHeadDim;
    rows.sm_scale = 0.5f;
    rows.n_tokens = n_tokens;
    rows.queries = queries.data();
    rows.keys = keys.data();
    rows.values = values.data();
    rows.positions = positions.data();
  }
  Sequence(const Sequence&) = delete;
  Sequence& operator=(const Sequence&) = delete;
};

TEST(AttentionMeter, OffsetsSpanBothDirections) {
  const std::vector<std::int64_t> offsets = relative_offsets();
  ASSERT_EQ(offsets.size(), 50u);
  EXPECT_EQ(offsets.front(), -1024);
  EXPECT_EQ(offsets.back(), 1024);
  for (std::size_t i = 1; i < offsets.size(); ++i)
    EXPECT_NEAR(static_cast<double>(offsets[i] - offsets[i - 1]), 2048 / 49.0, 1);
}

TEST(AttentionMeter, LogitErrorIsThatOfTheFirstKvHead) {
  Sequence s(1, 4, 2);
  s.queries[0] = 1, s.queries[1] = 2;  // head 0
  s.queries[kHeadDim + 1] = -1;        // head 1, reads KV head 0 too
  s.queries[2 * kHeadDim] = 100;       // head 2 does not
  std::vector<float> coded = s.keys;
  coded[0] = -0.5f, coded[1] = -0.25f;  // errors 0.5 and 0.25
  coded[kHeadDim] = 7;
  const AttentionMeter meter(s.rows, no_rotation(), 1);
  EXPECT_NEAR(meter.logit_mae(coded.data()), (1.0 + 0.25) / 2, 1e-7);
  EXPECT_EQ(meter.logit_mae(s.keys.data()), 0);
}

TEST(AttentionMeter, LogitErrorTurnsWithTheDistance) {
  RopeParams rope;
  rope.n_rot = 2;  // one rope_block, 1 radian per position
  Sequence s(1, 1, 1);
  s.positions[0] = 7;
  const auto turned = [](double x, double y, float* out) {  // to position 7
    out[0] = static_cast<float>(x * std::cos(7.0) - y * std::sin(7.0));
    out[1] = static_cast<float>(x * std::sin(7.0) + y * std::cos(7.0));
  };
  turned(3, 0, s.queries.data());
  turned(1, 1, s.keys.data());
  std::vector<float> coded(kHeadDim);
  turned(1, 0.5, coded.data());  // the error is (0, 0.5) before RoPE
  double expected = 0;
  for (const std::int64_t d : relative_offsets())
    expected += std::abs(1.5 * std::sin(static_cast<double>(d))) / 50;
  EXPECT_NEAR(AttentionMeter(s.rows, rope, 1).logit_mae(coded.data()), expected, 1e-5);
}

// Token 1 gives its logits 0 and ln 3, so weights 1/4 and 3/4; token 0 sees itself only.
void fill_two_tokens(Sequence& s) {
  s.queries[0] = s.queries[kHeadDim] = 1;
  s.keys[kHeadDim] = static_cast<float>(2 * std::log(3.0));
  s.values[0] = 4;
  s.values[kHeadDim] = 8;
}

TEST(AttentionMeter, DivergenceIsTheMeanOverCausalRows) {
  Sequence s(2, 1, 1);
  fill_two_tokens(s);
  const AttentionMeter meter(s.rows, no_rotation(), 64);
  const std::vector<float> coded(s.keys.size());  // equal weights
  const double second_row = 0.25 * std::log(0.5) + 0.75 * std::log(1.5);
  EXPECT_NEAR(meter.key_divergence(coded.data()), second_row / 2, 1e-7);
  EXPECT_NEAR(meter.key_divergence(s.keys.data()), 0, 1e-15);
}

TEST(AttentionMeter, QueryRowsAreSpreadToTheLastToken) {
  Sequence s(4, 1, 1);
  for (int t = 0; t < 4; ++t) s.queries[t * kHeadDim] = 1;
  std::vector<float> coded = s.keys;
  coded[3 * kHeadDim] = 2;  // seen by token 3 only: logits 0, 0, 0, 1 in place of 0
  const double last_row = std::log((3 + std::exp(1.0)) / 4) - 0.25;
  EXPECT_NEAR(AttentionMeter(s.rows, no_rotation(), 1).key_divergence(coded.data()), last_row, 1e-12);
  EXPECT_NEAR(AttentionMeter(s.rows, no_rotation(), 2).key_divergence(coded.data()), last_row / 2, 1e-12);
  EXPECT_NEAR(AttentionMeter(s.rows, no_rotation(), 64).key_divergence(coded.data()), last_row / 4, 1e-12);
}

TEST(AttentionMeter, OutputErrorIsRelativeToTheOutputs) {
  Sequence s(2, 1, 1);
  fill_two_tokens(s);  // outputs 4 and 7
  const AttentionMeter meter(s.rows, no_rotation(), 64);
  std::vector<float> values = s.values;
  values[0] = 6;  // outputs 6 and 7.5
  EXPECT_NEAR(meter.output_error(s.keys.data(), values.data()), (4 + 0.25) / (16 + 49), 1e-7);
  const std::vector<float> keys(s.keys.size());  // outputs 6 and 7
  EXPECT_NEAR(meter.output_error(keys.data(), values.data()), 4.0 / (16 + 49), 1e-7);
}

TEST(SoftmaxDivergence, LeavesOutWhatIsExcluded) {
  constexpr double kExcluded = -std::numeric_limits<double>::infinity();
  const std::vector<double> base = {1000, 1000 + std::log(3.0), kExcluded}, other = {-5, -5, kExcluded};
  EXPECT_NEAR(softmax_divergence<double>(base, other), 0.25 * std::log(0.5) + 0.75 * std::log(1.5), 1e-12);
}

}  // namespace
}  // namespace gtq::cli
