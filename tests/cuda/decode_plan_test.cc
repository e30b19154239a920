// Shapes of the launch of decode; needs no GPU.
#include "cuda/decode_plan.h"

#include <gtest/gtest.h>

namespace gtq::cuda {
namespace {

constexpr int kH200Shared = 232448, kH200Multiprocessors = 132;

struct Heads {
  int head_dim, n_q_heads, n_kv_heads, bits, n_mean_groups;
};

DecodeParams plan(const Heads& heads, int n_rows, int shared_bytes = kH200Shared, int kv_len = 131072,
                  int batch = 1) {
  Layer::Impl layer;
  layer.n_sms = kH200Multiprocessors;
  layer.max_shared_bytes = shared_bytes;
  layer.view.n_kv_heads = heads.n_kv_heads;
  layer.view.head_dim_k = layer.view.head_dim_v = heads.head_dim;
  layer.view.n_mean_groups = heads.n_mean_groups;
  layer.view.n_fast_groups = heads.n_mean_groups / 2;
  layer.view.key_bytes = layer.view.value_bytes = kCells * (heads.head_dim * heads.bits / 8 + 1);
  DecodeCall call;
  call.n_q_heads = heads.n_q_heads;
  call.n_rows = n_rows;
  call.sequences.batch = batch;
  call.sequences.kv_len = kv_len;
  DecodeParams p{};
  p.layer = layer.view;
  const int bytes = plan_decode(layer, call, p);
  EXPECT_LE(bytes, shared_bytes);
  EXPECT_EQ(p.n_warps % team_warps(heads.head_dim, p.span_pairs), 0);
  EXPECT_LE(p.n_warps, most_warps(heads.head_dim, p.span_pairs));
  EXPECT_GE(p.smem_scratch, p.n_warps * warp_ring_bytes(p.n_stages, p.stage_bytes));
  EXPECT_GE(p.n_spans * p.span_pairs, heads.n_q_heads / heads.n_kv_heads * n_rows);
  EXPECT_TRUE(p.n_splits == 1 || batch * heads.n_kv_heads * p.n_spans * p.n_splits <= kH200Multiprocessors);
  return p;
}

TEST(DecodePlan, SmallestSpanThatHoldsAllPairs) {
  EXPECT_EQ(plan({128, 8, 8, 3, 2}, 1).span_pairs, kNarrowPairs);
  EXPECT_EQ(plan({128, 32, 8, 3, 2}, 1).span_pairs, kNarrowPairs);
  EXPECT_EQ(plan({128, 40, 8, 3, 2}, 1).span_pairs, kWidePairs);
  EXPECT_EQ(plan({128, 32, 8, 3, 2}, 2).span_pairs, kWidePairs);
  for (const int head_dim : {64, 96, 128}) {
    const DecodeParams p = plan({head_dim, 128, 8, 3, 2}, 1);
    EXPECT_EQ(p.span_pairs, kTeamPairs) << head_dim;
    EXPECT_EQ(p.n_spans, 1) << head_dim;
    EXPECT_EQ(p.n_stages, 2) << head_dim;
    EXPECT_EQ(p.n_warps, most_warps(head_dim, kTeamPairs)) << head_dim;
    EXPECT_EQ(p.n_splits, 16) << head_dim;
  }
  EXPECT_EQ(plan({128, 24, 8, 3, 2}, 3).span_pairs, kTeamPairs);  // 9 pairs
  EXPECT_EQ(plan({128, 24, 8, 3, 2}, 6).n_spans, 2);              // 18
}

// Budgets of 4 bits just fit, of 3 with narrow tiles.
TEST(DecodePlan, AllWarps) {
  EXPECT_EQ(plan({128, 128, 8, 4, 2}, 1).n_warps, 12);
  EXPECT_EQ(plan({128, 64, 8, 4, 2}, 1).n_warps, 12);
  EXPECT_EQ(plan({128, 32, 8, 3, 2}, 1).n_warps, 16);
}

TEST(DecodePlan, TwoNarrowSpansForFewPages) {
  const auto of_length = [](int kv_len, int batch) {
    return plan({128, 16, 2, 3, 2}, 1, kH200Shared, kv_len, batch);
  };
  EXPECT_EQ(of_length(8192, 1).span_pairs, kNarrowPairs);
  EXPECT_EQ(of_length(8192, 1).n_spans, 2);
  EXPECT_EQ(of_length(8192, 1).n_warps, 8);
  EXPECT_EQ(of_length(32768, 1).span_pairs, kWidePairs);
  EXPECT_EQ(of_length(512, 33).span_pairs, kNarrowPairs);
  EXPECT_EQ(of_length(512, 34).span_pairs, kWidePairs);  // 136 thread blocks would not run at once
  EXPECT_EQ(plan({128, 32, 8, 3, 2}, 1, kH200Shared, 8192).n_warps, 8);
}

TEST(DecodePlan, StagesHoldWeights) {
  const DecodeParams p = plan({64, 16, 1, 1, 0}, 1);
  ASSERT_EQ(p.span_pairs, kTeamPairs);
  EXPECT_GE(p.stage_bytes, kTeamPairs * kWeightBytes + kCells * (64 / 8 + 1) + kSummaryBytes);
}

TEST(DecodePlan, OneTileWhereTeamsDoNotFit) {
  EXPECT_EQ(plan({256, 16, 1, 3, 2}, 1).span_pairs, kWidePairs);
  EXPECT_EQ(plan({256, 16, 1, 3, 2}, 1).n_spans, 2);
  EXPECT_EQ(plan({128, 16, 1, 6, 2}, 1, 48 * 1024).span_pairs, kWidePairs);
}

}  // namespace
}  // namespace gtq::cuda
