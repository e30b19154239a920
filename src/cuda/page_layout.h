// Bytes of a page on the GPU (private to src/cuda; token rows are the only form that leaves it).
//
//   key page of a head     [quant_group 0][quant_group 1] ... [64 norm bytes]        group: 128 * width bytes
//   value page of a head   [keys half 0: dims 0..31, 32..63, ...][half 1: ...][64 norm bytes]
//
// Norm byte j belongs to cell j of the page. Codes are kept by key slot: cells 32..63 are slots 0..31 and cells
// 31..0 are slots 32..63, so that slots s and s + 32 lie at the same distance from the middle of the page, on
// both sides of it: one table of cosines and sines serves both (decode_mean.cuh).
//
// A unit is 2048 codes of one width b in fragment order of 8-bit mma.m16n8k32: every lane of a warp owns 32
// codes, b words that expand to 8 registers of 4 int8 levels. Lane = 4 g + t.
//   key unit (16 coded slots x 64 keys)     register r, byte i: key slot 8 r + g, coded slot 4 t + i
//   value unit (32 dims x 32 keys)          register 2 z + j, byte i: dim 8 z + g,
//                                           key slot 8 (2 j + i / 2) + 2 t + i % 2 of its half
// Inside the b words a code of register 2 k + h, byte i stands at nibble n = 4 h + i:
//   width 1   word 0, bit 4 n + k
//   width 2   word k / 2, bits 4 n + 2 (k % 2) ..+1
//   width 3   k < 3: word k, bits 4 n ..+2;  k = 3: bit j of the code is bit 4 n + 3 of word j
//   width 4   word k, bits 4 n ..+3
//   width 5   low four bits as width 4; bit 4 is bit 4 n + k of word 4
//   width 6   low four bits as width 4; bits 4, 5 are bits 4 n + 2 (k % 2) ..+1 of word 4 + k / 2
// Words of a lane: the first four (two, one) of all lanes as one vector of 16 (8, 4) bytes per lane, the rest
// after them likewise: conflict-free vector loads.
//
// Codes wider than 3 bits are kept with their three highest bits lowest: byte permutes look up by three bits.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define GTQ_HD __host__ __device__ __forceinline__
#else
#define GTQ_HD inline
#endif

namespace gtq::cuda {

inline constexpr int kCells = 64;
inline constexpr int kWordLanes = 32;

// Key slot of a cell of the page, and back.
GTQ_HD int slot_of_cell(int cell) { return cell >= 32 ? cell - 32 : 63 - cell; }
GTQ_HD int cell_of_slot(int slot) { return slot < 32 ? slot + 32 : 63 - slot; }

// Code of the format of a stored one; stored_codes() (page_codes.cuh) is the way back.
GTQ_HD unsigned format_code(unsigned stored, int width) {
  if (width <= 3) return stored;
  return ((stored & 7) << (width - 3)) | (stored >> 3);
}

// Byte offset of word w of a lane in a unit.
GTQ_HD int word_offset(int width, int w, int lane) {
  const int vector = width >= 4 ? 4 : width >= 2 ? 2 : 1;
  if (w < vector) return (lane * vector + w) * 4;
  const int rest = width - vector;
  return (kWordLanes * vector + lane * rest + (w - vector)) * 4;
}

// Place of a code: lane, register pair k, nibble.
struct CodePlace {
  int lane, k, nibble;
};

GTQ_HD CodePlace key_place(int slot, int coded_slot) {
  const int r = slot >> 3;
  return {4 * (slot & 7) + (coded_slot >> 2), r >> 1, 4 * (r & 1) + (coded_slot & 3)};
}

// slot: of 0..31 in the half; dim: of 0..31 in the unit.
GTQ_HD CodePlace value_place(int slot, int dim) {
  const int a = slot >> 3;
  return {4 * (dim & 7) + ((slot & 7) >> 1), dim >> 3, 4 * (a >> 1) + 2 * (a & 1) + (slot & 1)};
}

// Some bits of a stored code: bits [from, from + n) stand at bit `shift` of word `word`.
struct CodePart {
  int word, shift, from, n;
};

GTQ_HD int n_code_parts(int width, int k) {
  return width <= 2 || width == 4 ? 1 : width == 3 ? (k < 3 ? 1 : 3) : 2;
}

GTQ_HD CodePart code_part(int width, int k, int nibble, int part) {
  const int at = 4 * nibble;
  if (width == 3) return k < 3 ? CodePart{k, at, 0, 3} : CodePart{part, at + 3, part, 1};
  // The low four bits, then the others as codes of so many bits.
  const int n = part == 1 ? width - 4 : width < 4 ? width : 4;
  const int log_per_nibble = n == 1 ? 2 : n == 2 ? 1 : 0;
  return {4 * part + (k >> log_per_nibble), at + n * (k & ((1 << log_per_nibble) - 1)), 4 * part, n};
}

}  // namespace gtq::cuda
