// Tables of the encoder against the CPU's search. Needs no GPU.
#include "cuda/encode_tables.h"

#include <gtest/gtest.h>

#include <cmath>

#include "codec/fixed_point.h"
#include "codec/norm.h"

namespace gtq::cuda {
namespace {

TEST(CudaEncodeTables, LevelGridKnowsEveryLevel) {
  const LevelGrid grid = level_grid();
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    const UpperCodebook& book = UpperCodebook::of(width);
    int index = 0;
    for (int scaled = 0; scaled < kGridStep * kGridCells; ++scaled) {
      while (index + 1 < book.n_levels && scaled > book.thresholds[index]) ++index;
      const std::uint32_t cell = grid.cells[width - 1][scaled / kGridStep];
      const int above = static_cast<std::uint32_t>(scaled % kGridStep) >= cell >> 24 ? 1 : 0;
      ASSERT_EQ(cell >> (8 * above) & 255, book.levels[index]) << width << ' ' << scaled;
      ASSERT_EQ(static_cast<int>(cell >> 16 & 255) + above, index) << width << ' ' << scaled;
    }
    EXPECT_EQ(index + 1, book.n_levels) << "larger numbers have the last level";
  }
}

TEST(CudaEncodeTables, NormsStartWhereCodesDo) {
  const auto check = [](const NormTable& table, auto code_of) {
    EXPECT_EQ(table.starts[table.lowest], 0.0f);
    EXPECT_EQ(table.starts[table.highest + 1], INFINITY);
    for (int code = table.lowest + 1; code <= table.highest; ++code) {
      const float start = table.starts[code];
      EXPECT_EQ(code_of(start), code);
      EXPECT_EQ(code_of(std::nextafter(start, 0.0f)), code - 1);
    }
  };
  check(key_norm_table(), [](float norm) { return key_norm_code(norm); });
  check(value_norm_table(), [](float norm) { return int{value_norm_byte(norm)}; });
}

}  // namespace
}  // namespace gtq::cuda
