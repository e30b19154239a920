// Bytes of a page (private to src/cpu; token rows are the only form that leaves it).
//
// A page holds 64 keys (or values) of one KV head. Its codes are cut into units of 512 codes of one width b:
// 32 keys x 16 dims. A unit is b words of 64 bytes and unpacks to 8 outputs of 64 codes:
//
//   key page                                       value page
//   [half 0: keys  0..31][quant_group 0, 1, ...]   [dims  0..15][keys 0..31, keys 32..63]
//   [half 1: keys 32..63][quant_group 0, 1, ...]   [dims 16..31][keys 0..31, keys 32..63]
//   [64 norm bytes]                                ...
//                                                  [64 norm bytes]
//
//   output o of a key unit: keys 16 (o / 4) ..+16, slots 4 (o % 4) ..+4 of its half and quant_group
//     byte 4 k + i = key k, slot i                 k = 0..15, i = 0..3
//   output o of a value unit: keys 4 o ..+4, dims 0..15 of its 32 keys and 16 dims
//     byte 4 d + i = dim d, key i                  d = 0..15, i = 0..3
//
// So a 32-bit lane holds four codes that are multiplied with four neighbouring numbers of the query (of the
// softmax weights), which is the operand order of integer dot product instructions, and the 16 lanes of an
// output are 16 neighbours of the result. A byte of an output comes from the same byte of the words:
//
//   width   bit 7 ........................ bit 0 of word w                      outputs
//     1     7 6 5 4 3 2 1 0                                                     0..7, one word
//     2     [4w+3][4w+2][4w+1][4w]                                              w = 0, 1
//     3     [x:2][2w+1:3][2w:3]      x = low bits of output 6 (w 0), 7 (w 1); in word 2, bit 6 and bit 7
//                                    are their high bits                        w = 0..2
//     4     [2w+1:4][2w:4]                                                      w = 0..3
//     5     [x:3][w:5]               x = low 3 bits of outputs 5, 6, 7 (w 0, 1, 2); bits 5-6 of words 3, 4
//                                    are bits 3-4 of outputs 5, 6; bit 7 of words 3, 4 are bits 3, 4 of 7
//     6     [x:2][w:6]               x = bits 0-1, 2-3, 4-5 of output 6 (w 0..2) and 7 (w 3..5)
//
// A norm byte of cell j of the page is byte j of the last 64. Page bytes = 64 * row bytes, no padding.
// Cells of a page share bytes: threads that store at the same time must store into different pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gtq::cpu {

inline constexpr std::size_t kWordBytes = 64;
inline constexpr int kUnitOutputs = 8;

struct KeyPageLayout {
  explicit KeyPageLayout(const std::vector<std::uint8_t>& widths);

  std::vector<std::uint8_t> widths;             // per quant_group
  std::vector<std::uint32_t> group_offset;      // bytes from the start of a half
  std::size_t half_bytes = 0, norm_offset = 0;  // norms follow the two halves
  std::size_t page_bytes = 0, row_bytes = 0;

  // Cell 0..63 of the page <-> token row.
  void store(std::uint8_t* page, int cell, const std::uint8_t* row) const;
  void load(const std::uint8_t* page, int cell, std::uint8_t* row) const;
};

struct ValuePageLayout {
  ValuePageLayout(int head_dim, int width);

  int n_groups, width;
  std::size_t norm_offset, page_bytes, row_bytes;

  void store(std::uint8_t* page, int cell, const std::uint8_t* row) const;
  void load(const std::uint8_t* page, int cell, std::uint8_t* row) const;
};

}  // namespace gtq::cpu
