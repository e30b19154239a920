// Codes of one token in a page: 16 codes of a quant_group (16 neighbouring dims of a value) at a time.
//
// Tokens of a page share words. Writers change their bits with atomic operations: other bits, also those of
// tokens that other threads write at the same time, stay as they are.
#pragma once

#include "cuda/page_layout.h"
#include "cuda/tables.h"

namespace gtq::cuda {

// Byte offset of the unit of a quant_group in a key page; twice the sum of widths is the offset in a token row.
__device__ __forceinline__ int sum_of_widths(const std::uint8_t* widths, int group) {
  int sum = 0;
  for (int g = 0; g < group; ++g) sum += widths[g];
  return sum;
}

__device__ __forceinline__ void replace_bits(std::uint32_t* word, std::uint32_t mask, std::uint32_t bits) {
  atomicAnd(word, ~mask);
  if (bits != 0) atomicOr(word, bits);
}

struct GatheredBits {
  std::uint32_t mask = 0, bits = 0;
  int word = 0;

  __device__ __forceinline__ void add(const CodePart& part, unsigned stored) {
    const std::uint32_t ones = (1u << part.n) - 1;
    word = part.word;
    mask |= ones << part.shift;
    bits |= (stored >> part.from & ones) << part.shift;
  }
};

__device__ __forceinline__ std::uint32_t* word_of(std::uint8_t* unit, int width, int word, int lane) {
  return reinterpret_cast<std::uint32_t*>(unit + word_offset(width, word, lane));
}

// codes: of the 16 coded slots, in the format's numbering, four to a word.
__device__ inline void put_key_codes(std::uint8_t* unit, int width, int cell, const std::uint32_t (&codes)[4]) {
  const int slot = slot_of_cell(cell);
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    const CodePlace place = key_place(slot, 4 * t);
#pragma unroll 1
    for (int part = 0; part < n_code_parts(width, place.k); ++part) {
      GatheredBits gathered;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        gathered.add(code_part(width, place.k, place.nibble + i, part),
                     stored_code(codes[t] >> (8 * i) & 255, width));
      }
      replace_bits(word_of(unit, width, gathered.word, place.lane), gathered.mask, gathered.bits);
    }
  }
}

// codes: of dims 16 sixteen ..+15 of the head.
__device__ inline void put_value_codes(std::uint8_t* page, int head_dim, int width, int cell, int sixteen,
                                       const std::uint32_t (&codes)[4]) {
  const int slot = slot_of_cell(cell);
  std::uint8_t* unit = page + (slot / 32 * (head_dim / 32) + sixteen / 2) * 128 * width;
#pragma unroll
  for (int word = 0; word < 4; ++word) {
#pragma unroll 1
    for (int j = 0; j < 4; ++j) {
      const CodePlace place = value_place(slot % 32, 16 * (sixteen % 2) + 4 * word + j);
#pragma unroll 1
      for (int part = 0; part < n_code_parts(width, place.k); ++part) {
        GatheredBits gathered;
        gathered.add(code_part(width, place.k, place.nibble, part),
                     stored_code(codes[word] >> (8 * j) & 255, width));
        replace_bits(word_of(unit, width, gathered.word, place.lane), gathered.mask, gathered.bits);
      }
    }
  }
}

__device__ __forceinline__ unsigned get_code(const std::uint8_t* unit, int width, const CodePlace& place) {
  unsigned stored = 0;
  for (int i = 0; i < n_code_parts(width, place.k); ++i) {
    const CodePart part = code_part(width, place.k, place.nibble, i);
    const std::uint32_t word =
        *reinterpret_cast<const std::uint32_t*>(unit + word_offset(width, part.word, place.lane));
    stored |= (word >> part.shift & ((1u << part.n) - 1)) << part.from;
  }
  return format_code(stored, width);
}

__device__ inline void get_key_codes(const std::uint8_t* unit, int width, int cell, std::uint8_t (&codes)[16]) {
  const int slot = slot_of_cell(cell);
#pragma unroll
  for (int i = 0; i < 16; ++i) codes[i] = static_cast<std::uint8_t>(get_code(unit, width, key_place(slot, i)));
}

__device__ inline void get_value_codes(const std::uint8_t* page, int head_dim, int width, int cell, int sixteen,
                                       std::uint8_t (&codes)[16]) {
  const int slot = slot_of_cell(cell);
  const std::uint8_t* unit = page + (slot / 32 * (head_dim / 32) + sixteen / 2) * 128 * width;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<std::uint8_t>(get_code(unit, width, value_place(slot % 32, 16 * (sixteen % 2) + i)));
  }
}

// Cell of the whole cache -> page and place in it.
struct CellPlace {
  long long page;
  int in_page;
};
__device__ __forceinline__ CellPlace place_of_cell(long long cell) {
  return {cell / kCells, static_cast<int>(cell % kCells)};
}

}  // namespace gtq::cuda
