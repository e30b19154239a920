#include "codec/norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace gtq {
namespace {

// The definition of docs/format.md: rounded to nearest and clamped.
int rounded(float norm, int bias, int lowest, int highest) {
  const double code = std::round(16 * std::log2(static_cast<double>(norm))) + bias;
  return static_cast<int>(std::clamp(code, 1.0 * lowest, 1.0 * highest));
}

void expect_rounded(float norm) {
  ASSERT_EQ(key_norm_code(norm), rounded(norm, 48, 0, 127)) << norm;
  ASSERT_EQ(int{value_norm_byte(norm)}, rounded(norm, 160, 1, 255)) << norm;
}

TEST(Norm, CodesAreRoundedLogarithms) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> exponent(-20, 20);
  for (int i = 0; i < 200000; ++i) expect_rounded(std::exp2(exponent(random)));
}

TEST(Norm, CodesChangeWhereTheRoundedLogarithmDoes) {
  for (int half = -400; half < 400; ++half) {
    float norm = std::exp2((static_cast<float>(half) + 0.5f) / 16.0f);
    for (int i = 0; i < 20; ++i) norm = std::nextafter(norm, 0.0f);
    for (int i = 0; i < 40; ++i, norm = std::nextafter(norm, INFINITY)) expect_rounded(norm);
  }
}

TEST(Norm, CodesOfNoNorm) {
  for (const float norm : {0.0f, -1.0f, -INFINITY, std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_EQ(key_norm_code(norm), 0);
    EXPECT_EQ(value_norm_byte(norm), 0);
  }
  for (const float norm : {INFINITY, std::numeric_limits<float>::max()}) {
    EXPECT_EQ(key_norm_code(norm), 127);
    EXPECT_EQ(value_norm_byte(norm), 255);
  }
  expect_rounded(std::numeric_limits<float>::denorm_min());
}

}  // namespace
}  // namespace gtq
