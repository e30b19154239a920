#include "plugin/wide_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "ggml.h"

namespace gtq::plugin {
namespace {

std::vector<std::uint16_t> through_a_state(const std::vector<std::uint16_t>& values) {
  const auto n = static_cast<std::int64_t>(values.size());
  constexpr std::uint8_t kMark = 0xa5;
  std::vector<std::uint8_t> bytes(2 * values.size() - kStateHeaderBytes + 1, kMark);
  write_wide_row(values.data(), n, bytes.data());
  EXPECT_EQ(bytes.back(), kMark) << "longer than a row of " << n;
  std::vector<std::uint16_t> result(values.size());
  read_wide_row(bytes.data(), n, result.data());
  return result;
}

TEST(WideRow, EveryFiniteValueIsRounded) {
  for (const std::int64_t n : {16, 48, 64, 128, 192, 1024}) {
    const double step = 1.0 / (1 << (wide_row_bits(n) - 6));  // spacing of the mantissas that are left
    std::vector<std::uint16_t> values(n);
    for (unsigned first = 0; first < 0x10000; first += static_cast<unsigned>(n)) {
      for (std::int64_t i = 0; i < n; ++i) values[i] = static_cast<std::uint16_t>(first + i);
      const std::vector<std::uint16_t> result = through_a_state(values);
      for (std::int64_t i = 0; i < n; ++i) {
        if ((values[i] & 0x7c00) == 0x7c00) continue;  // no number
        const double x = ggml_fp16_to_fp32(values[i]), y = ggml_fp16_to_fp32(result[i]);
        ASSERT_EQ(values[i] & 0x8000, result[i] & 0x8000);
        // Half a step, the largest values a whole one; below the normal numbers, steps are those of 2^-14.
        const double limit = (std::abs(x) > 65000 ? 1.0 : 0.5) * step * std::max(std::abs(x), 0x1p-14);
        ASSERT_LE(std::abs(x - y), limit) << n << " " << x;
      }
    }
  }
}

TEST(WideRow, LosesOneBitFrom128ValuesOn) {
  EXPECT_EQ(wide_row_bits(16), 8);
  EXPECT_EQ(wide_row_bits(64), 14);
  EXPECT_EQ(wide_row_bits(128), 15);
  EXPECT_EQ(wide_row_bits(4096), 15);
  std::vector<std::uint16_t> values(128);
  for (unsigned i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint16_t>(0x3c00 + 2 * i);
  EXPECT_EQ(through_a_state(values), values);  // the lowest bit is 0 in each
}

}  // namespace
}  // namespace gtq::plugin
