#include "reference/rotary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "reference/haar.h"

namespace gtq::reference {
namespace {

RopeParams rope_params(RopeMode mode, int n_rot) {
  RopeParams params;
  params.mode = mode;
  params.n_rot = n_rot;
  return params;
}

TEST(ReferenceRotary, PairsAndAngles) {
  const std::vector<RopeBlock> neox = rope_blocks(16, rope_params(RopeMode::kNeox, 8));
  EXPECT_EQ(neox[1].first, 1);
  EXPECT_EQ(neox[1].second, 5);
  EXPECT_DOUBLE_EQ(neox[0].theta, 1);
  EXPECT_DOUBLE_EQ(neox[2].theta, 0.01);
  EXPECT_EQ(neox[4].first, 8);
  EXPECT_EQ(neox[4].second, 9);
  EXPECT_EQ(neox[4].theta, 0);
  const std::vector<RopeBlock> interleaved = rope_blocks(16, rope_params(RopeMode::kInterleaved, 8));
  EXPECT_EQ(interleaved[3].first, 6);
  EXPECT_EQ(interleaved[3].second, 7);
}

TEST(ReferenceRotary, QuarterTurn) {
  std::vector<RopeBlock> blocks = rope_blocks(16, rope_params(RopeMode::kNeox, 16));
  for (RopeBlock& block : blocks) block.theta = std::acos(0.0);
  std::vector<double> in(16, 0.0);
  in[0] = 3;
  const std::vector<double> out = rotate(in, blocks, 1);
  EXPECT_NEAR(out[0], 0, 1e-15);
  EXPECT_NEAR(out[8], 3, 1e-15);
}

TEST(ReferenceRotary, AgreesWithTheLibrary) {
  for (const RopeMode mode : {RopeMode::kInterleaved, RopeMode::kNeox}) {
    for (const bool yarn : {false, true}) {
      RopeParams params = rope_params(mode, 64);
      params.freq_scale = 0.25f;
      params.freq_base = 1e6f;
      if (yarn) {
        params.ext_factor = 1.0f;
        params.n_ctx_orig = 32768;
      } else {
        for (int i = 0; i < 32; ++i) params.freq_factors.push_back(1.0f + 0.2f * static_cast<float>(i));
      }
      const Rope rope(96, params);
      const std::vector<RopeBlock> blocks = rope_blocks(96, params);
      for (int i = 0; i < 48; ++i) {
        EXPECT_EQ(rope.first(i), blocks[i].first);
        EXPECT_EQ(rope.second(i), blocks[i].second);
        EXPECT_NEAR(rope.theta(i), blocks[i].theta, 1e-6 * blocks[i].theta);
      }
      const std::vector<double> in = gaussian_numbers(96, 8), expected = rotate(in, blocks, 1234);
      std::vector<float> out(in.begin(), in.end());
      rope.rotate(out.data(), 1234, out.data());
      for (int i = 0; i < 96; ++i) EXPECT_NEAR(static_cast<double>(out[i]), expected[i], 1e-5);
    }
  }
}

}  // namespace
}  // namespace gtq::reference
