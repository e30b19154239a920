// Codes of one token in a page: written 4 neighbouring slots (dims of a value) at a time, read 16.
//
// Tokens of a page share words. Writers change their bits with atomic operations: other bits, also those of
// tokens that other threads write at the same time, stay as they are.
#pragma once

#include "cuda/page_layout.h"
#include "cuda/ptx.cuh"
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

__device__ __forceinline__ std::uint32_t* word_of(std::uint8_t* unit, int width, int word, int lane) {
  return reinterpret_cast<std::uint32_t*>(unit + word_offset(width, word, lane));
}

// Four codes, a byte each.
__device__ __forceinline__ std::uint32_t stored_codes(std::uint32_t codes, int width) {
  if (width <= 3) return codes;
  const int low = width - 3;
  return (codes >> low & 0x07070707u) | (codes & 0x01010101u * ((1u << low) - 1)) << 3;
}

// codes: of coded slots 4 t ..+3, in the format's numbering, a byte each.
__device__ __forceinline__ void put_key_run(std::uint8_t* unit, int width, int cell, int t,
                                            std::uint32_t codes) {
  const CodePlace place = key_place(slot_of_cell(cell), 4 * t);
  const std::uint32_t stored = stored_codes(codes, width);
#pragma unroll 1
  for (int i = 0; i < n_code_parts(width, place.k); ++i) {
    const CodePart part = code_part(width, place.k, place.nibble, i);
    const std::uint32_t ones = (1u << part.n) - 1, bytes = stored >> part.from & 0x01010101u * ones;
    const std::uint32_t nibbles = permute(bytes | bytes >> 4, 0, 0x4420);
    replace_bits(word_of(unit, width, part.word, place.lane), 0x1111u * ones << part.shift,
                 nibbles << part.shift);
  }
}

// codes: of dims 4 run ..+3 of the head.
__device__ __forceinline__ void put_value_run(std::uint8_t* page, int head_dim, int width, int cell, int run,
                                              std::uint32_t codes) {
  const int slot = slot_of_cell(cell);
  std::uint8_t* unit = page + (slot / 32 * (head_dim / 32) + run / 8) * 128 * width;
  const CodePlace place = value_place(slot % 32, 4 * (run % 8));  // of the first; the others 4 lanes apart
  const std::uint32_t stored = stored_codes(codes, width);
#pragma unroll 1
  for (int i = 0; i < n_code_parts(width, place.k); ++i) {
    const CodePart part = code_part(width, place.k, place.nibble, i);
    const std::uint32_t ones = (1u << part.n) - 1;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      replace_bits(word_of(unit, width, part.word, place.lane + 4 * j), ones << part.shift,
                   (stored >> (8 * j + part.from) & ones) << part.shift);
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
