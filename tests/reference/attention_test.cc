#include "reference/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

namespace gtq::reference {
namespace {

constexpr std::uint16_t kHalfMinusInfinity = 0xFC00, kHalfZero = 0, kHalfMinus16 = 0xCC00;

// One query head, q = (1, 0), logits 0 and ln 3: weights 1/4 and 3/4 on the values 4 and 8.
AttentionInput two_cells() {
  AttentionInput input;
  input.n_q_heads = input.n_kv_heads = 1;
  input.head_dim_k = 2;
  input.head_dim_v = 1;
  input.n_rows = 1;
  input.kv_len = 2;
  input.q = {1, 0};
  input.keys = {0, 5, 2 * std::log(3.0), -7};
  input.values = {4, 8};
  input.sm_scale = 0.5;
  return input;
}

TEST(ReferenceAttention, WeightsAreTheSoftmaxOfTheLogits) { EXPECT_NEAR(attention(two_cells())[0], 7, 1e-12); }

TEST(ReferenceAttention, SinkAddsToTheDenominator) {
  AttentionInput input = two_cells();
  input.sinks = {std::log(4.0)};  // 1 + 3 + 4
  EXPECT_NEAR(attention(input)[0], 3.5, 1e-12);
  input.sinks = {1000};  // must not overflow
  EXPECT_EQ(attention(input)[0], 0);
}

TEST(ReferenceAttention, MaskExcludesAndAddsUp) {
  AttentionInput input = two_cells();
  input.mask = {kHalfZero, kHalfMinusInfinity};
  EXPECT_NEAR(attention(input)[0], 4, 1e-12);
  input.mask = {kHalfMinusInfinity, kHalfMinusInfinity};
  EXPECT_EQ(attention(input)[0], 0);
  input.sinks = {0};
  EXPECT_EQ(attention(input)[0], 0);
  input.sinks = {};
  input.mask = {kHalfZero, kHalfMinus16};
  const double w = 3 * std::exp(-16.0);
  EXPECT_NEAR(attention(input)[0], (4 + w * 8) / (1 + w), 1e-12);
}

TEST(ReferenceAttention, SoftcapComesBeforeTheMask) {
  AttentionInput input = two_cells();
  input.logit_softcap = 2;  // 2 tanh(ln 3 / 2) = 1
  EXPECT_NEAR(attention(input)[0], (4 + 8 * std::numbers::e) / (1 + std::numbers::e), 1e-12);
  input.mask = {kHalfZero, kHalfMinus16};
  const double w = std::exp(1.0 - 16.0);
  EXPECT_NEAR(attention(input)[0], (4 + 8 * w) / (1 + w), 1e-12);
}

TEST(ReferenceAttention, AlibiSlopes) {
  EXPECT_EQ(alibi_slope(0, 2, 1), 1);
  EXPECT_DOUBLE_EQ(alibi_slope(8, 8, 0), 1.0 / 2);
  EXPECT_DOUBLE_EQ(alibi_slope(8, 8, 7), 1.0 / 256);
  // 3 heads: n2 = 2, m0 = 1/16, m1 = 1/4.
  EXPECT_DOUBLE_EQ(alibi_slope(8, 3, 0), 1.0 / 16);
  EXPECT_DOUBLE_EQ(alibi_slope(8, 3, 1), 1.0 / 256);
  EXPECT_DOUBLE_EQ(alibi_slope(8, 3, 2), 1.0 / 4);

  AttentionInput input = two_cells();
  input.alibi_max_bias = 4;  // one head: slope 2^-4, so the mask of -16 takes 1 off the logit
  input.mask = {kHalfZero, kHalfMinus16};
  const double w = 3 * std::exp(-1.0);
  EXPECT_NEAR(attention(input)[0], (4 + 8 * w) / (1 + w), 1e-12);
}

TEST(ReferenceAttention, QueryHeadsShareKvHeads) {
  AttentionInput input = two_cells();
  input.n_q_heads = 4;
  input.n_kv_heads = 2;
  input.n_rows = 2;
  input.q.assign(2 * 4 * 2, 0.0);  // equal weights ...
  input.q[(1 * 4 + 3) * 2] = 1;    // ... but for row 1, head 3
  input.keys = {0, 0, 0, 0, 0, 0, 2 * std::log(3.0), 0};
  input.values = {4, 8, 40, 80};
  const std::vector<double> out = attention(input);
  const std::vector<double> expected = {6, 6, 60, 60, 6, 6, 60, 70};
  for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(out[i], expected[i], 1e-12) << i;
}

}  // namespace
}  // namespace gtq::reference
