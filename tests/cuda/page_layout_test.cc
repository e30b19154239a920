// The layout of codes in a unit: every bit is used once, whatever the width. Needs no GPU.
#include "cuda/page_layout.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "cuda/tables.h"

namespace gtq::cuda {
namespace {

constexpr int kWidest = 6;

// Counts how often each bit of a unit belongs to a code at `place`, and that a code's parts cover its bits.
void mark(std::vector<int>& bits, int width, const CodePlace& place) {
  unsigned covered = 0;
  for (int i = 0; i < n_code_parts(width, place.k); ++i) {
    const CodePart part = code_part(width, place.k, place.nibble, i);
    for (int bit = 0; bit < part.n; ++bit) {
      ++bits[word_offset(width, part.word, place.lane) * 8 + part.shift + bit];
      covered |= 1u << (part.from + bit);
    }
  }
  EXPECT_EQ(covered, (1u << width) - 1);
}

TEST(CudaPageLayout, KeyUnitsUseEveryBitOnce) {
  for (int width = 1; width <= kWidest; ++width) {
    std::vector<int> bits(128 * 8 * width, 0);
    for (int slot = 0; slot < kCells; ++slot) {
      for (int coded = 0; coded < 16; ++coded) mark(bits, width, key_place(slot, coded));
    }
    EXPECT_EQ(bits, std::vector<int>(bits.size(), 1)) << width;
  }
}

TEST(CudaPageLayout, ValueUnitsUseEveryBitOnce) {
  for (int width = 1; width <= kWidest; ++width) {
    std::vector<int> bits(128 * 8 * width, 0);
    for (int slot = 0; slot < 32; ++slot) {
      for (int dim = 0; dim < 32; ++dim) mark(bits, width, value_place(slot, dim));
    }
    EXPECT_EQ(bits, std::vector<int>(bits.size(), 1)) << width;
  }
}

TEST(CudaPageLayout, SlotsAndCodesAreOneToOne) {
  for (int cell = 0; cell < kCells; ++cell) EXPECT_EQ(cell_of_slot(slot_of_cell(cell)), cell);
  for (int slot = 0; slot < 32; ++slot) EXPECT_EQ(cell_of_slot(slot) + cell_of_slot(slot + 32), kCells - 1);
  for (int width = 1; width <= kWidest; ++width) {
    std::set<unsigned> codes;
    for (unsigned stored = 0; stored < 1u << width; ++stored) codes.insert(format_code(stored, width));
    EXPECT_EQ(codes.size(), std::size_t{1} << width);
    EXPECT_EQ(*codes.rbegin(), (1u << width) - 1);
  }
}

TEST(CudaPageLayout, DecodeBlockPartsAreAligned) {
  for (int groups = 0; groups <= 16; ++groups) {
    const DecodeBlock b = decode_block(48, 96, groups, groups / 2);
    for (const int at :
         {b.mean_blocks, b.gain, b.value_signs, b.mean_values, b.dims, b.mean_dims, b.scalars, b.bytes}) {
      EXPECT_EQ(at % 16, 0) << groups;
    }
  }
}

}  // namespace
}  // namespace gtq::cuda
