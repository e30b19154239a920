#include <gtest/gtest.h>

#include "cpu/random_layer.h"

namespace gtq::test {
namespace {

TEST(PagePositions, SeesRegularPages) {
  std::vector<std::int32_t> positions = consecutive(200, 1000);
  PagePositions pages;
  pages.update(positions.data(), 200);
  ASSERT_EQ(pages.pages.size(), 4u);
  for (int p = 0; p < 4; ++p) {
    EXPECT_TRUE(pages.pages[p].regular);
    EXPECT_EQ(pages.pages[p].start, 1000 + 64 * p);
    EXPECT_EQ(pages.pages[p].full, p < 3);
  }
}

TEST(PagePositions, EmptyCellsDoNotMatter) {
  std::vector<std::int32_t> positions = consecutive(192, 7);
  positions[0] = positions[5] = kEmptyCell;
  std::fill_n(positions.begin() + 64, 64, kEmptyCell);
  PagePositions pages;
  pages.update(positions.data(), 192);
  EXPECT_TRUE(pages.pages[0].regular);
  EXPECT_EQ(pages.pages[0].start, 7);
  EXPECT_TRUE(pages.pages[1].regular);
  EXPECT_TRUE(pages.pages[2].regular);
  EXPECT_FALSE(pages.pages[0].full);
  EXPECT_FALSE(pages.pages[1].full);
  EXPECT_TRUE(pages.pages[2].full);
}

TEST(PagePositions, JumpsAreIrregularAndUpdatesForget) {
  std::vector<std::int32_t> positions = consecutive(128, 0);
  positions[63] = 64;
  PagePositions pages;
  pages.update(positions.data(), 128);
  EXPECT_FALSE(pages.pages[0].regular);
  EXPECT_FALSE(pages.pages[0].full);
  EXPECT_TRUE(pages.pages[1].regular);
  positions[63] = 63;
  pages.update(positions.data(), 70);
  ASSERT_EQ(pages.pages.size(), 2u);
  EXPECT_TRUE(pages.pages[0].regular);
}

}  // namespace
}  // namespace gtq::test
