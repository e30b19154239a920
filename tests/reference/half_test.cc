#include "reference/half.h"

#include <gtest/gtest.h>

namespace gtq::reference {
namespace {

TEST(ReferenceHalf, KnownValues) {
  EXPECT_EQ(half_to_double(0x0000), 0);
  EXPECT_EQ(half_to_double(0x3C00), 1);
  EXPECT_EQ(half_to_double(0xC000), -2);
  EXPECT_EQ(half_to_double(0x7BFF), 65504);
  EXPECT_EQ(half_to_double(0x0001), std::ldexp(1.0, -24));
  EXPECT_EQ(half_to_double(0xFC00), -std::numeric_limits<double>::infinity());
  EXPECT_TRUE(std::isnan(half_to_double(0x7E00)));
}

TEST(ReferenceHalf, RoundingFindsTheNearestValueAndTiesToEven) {
  for (int bits = 0; bits < 0x7BFF; ++bits) {
    const double low = half_to_double(static_cast<std::uint16_t>(bits));
    const double high = half_to_double(static_cast<std::uint16_t>(bits + 1));
    ASSERT_EQ(round_to_half(low), low) << bits;
    ASSERT_EQ(round_to_half(low + 0.49 * (high - low)), low) << bits;
    ASSERT_EQ(round_to_half(low + 0.51 * (high - low)), high) << bits;
    ASSERT_EQ(round_to_half((low + high) / 2), bits % 2 == 0 ? low : high) << bits;
  }
  EXPECT_EQ(round_to_half(1e9), 65504);
}

}  // namespace
}  // namespace gtq::reference
