// What a page kernel gets and gives: plain structs only, because every kernel is compiled for its own
// instruction set and must not share inline functions with the rest of the program.
//
// The logit of row m and cell j, rows being (query row, query head of the KV head) pairs, is
//   norm_j * sum_slot query[m][slot] * level[slot] + sum_i re_i cos(theta_i t_j) - im_i sin(theta_i t_j)
// where level is the codebook on its int8 grid (its step and sm_scale are folded into the query), (re, im)_i is
// the product conj(q) mu of centred rope_block i, and t_j the cell's position.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gtq::cpu {

inline constexpr int kPageCells = 64;
inline constexpr int kPanel = 16;  // columns of a tile panel: keys of an output, or dims of values
inline constexpr int kMeanKeys = 2;
inline constexpr int kChebyshev = 16;  // polynomials that stand for all smooth rope_blocks: 8 even, 8 odd
inline constexpr int kHalfPage = 32;
inline constexpr int kTilePages = 4;  // as many pages share one softmax step
inline constexpr int kTileCells = kTilePages * kPageCells;
inline constexpr std::size_t kWordStride = 64;  // bytes between the words of a unit (page_layout.h)
inline constexpr int kMeanRows = 16;            // (page, pair) rows whose mean terms are computed at a time
// A rope_block is smooth when it turns less than this (radians) over half a page: with these Chebyshev
// polynomials the error is below 4e-6 of its magnitude, 2e-7 for one that turns less than 5.
inline constexpr double kSmoothRadians = 6.2;
// Below this one the polynomials of order 0 .. 7 do, with errors below 1e-6.
inline constexpr double kLowRadians = 1.2;

// Centred rope_blocks of a head, fast ones first, then smooth ones, faster ones first; both lists padded to 16
// with zeros. With c turned to the middle of a page, its cells at distance x = 0.5 .. 31.5 on either side get
//   sum_i re_i cos(theta_i x)  -+  sum_i im_i sin(theta_i x)
// so one half of the page is the sum, the other the difference of an even and an odd part.
struct MeanTables {
  int n_fast, n_smooth;       // without padding
  int fast_padded, n_padded;  // fast list, both lists
  const std::uint16_t* dims;  // [n_padded][2] of the rope_block
  const float* means;         // [kMeanKeys][n_padded][re, im]
  const double* turns;        // [n_padded] theta / 2 pi
  int fast_rows, n_basis;     // n_fast rounded up to even; rows of a basis, 8 polynomials with them
  const float* even;          // [2 panels][n_basis][16 x]: cos of fast ones, then T_0, T_2, ...
  const float* odd;           // [2 panels][n_basis][16 x]: -sin of fast ones, then T_1, T_3, ...
  int n_high;                 // smooth ones that need all orders, rounded up to fours
  int n_low;                  // those after them that do with 0 .. 7; with them rounded up to eights
  const float* all_orders;    // [n_high][8][even order of cos, odd order of -sin]
  const float* low_orders;    // [n_low / 2][4][2 rope_blocks][even order of cos, odd order of -sin]
};

// Levels of a codebook by six bits of a byte. Table 0: entry i is the level of code i mod 2^width. The others
// are for codes that stand elsewhere among the six bits (dot_avx512.inc.h).
inline constexpr int kCodeTables = 4;
struct alignas(64) CodeTable {
  std::int8_t bytes[64];                 // table 0
  std::uint8_t biased[kCodeTables][64];  // plus 128
};

// Four neighbouring numbers of a query or of softmax weights as integers, in the form of a kernel's multiply.
struct Quad {
  std::uint64_t bits;
};

// Bytes of a level in the form that a kernel multiplies. Levels of kPanel dims of a tile's values, twice as
// many where a level is one byte, or of half a page of keys are unpacked at a time.
inline constexpr int kMaxLevelBytes = 2;

// Kernels may round the pairs of an item and the numbers of a pair up to multiples of these.
inline constexpr int kRowPadding = 16, kNumberPadding = 64;

struct HeadTables {
  int head_dim_k, head_dim_v;
  const std::uint16_t* query_dims;    // [head_dim_k] of slots
  const float* query_gain;            // [head_dim_k] of slots, before the transform of 16
  int rotation_dims;                  // of values
  const float* output_gain;           // [head_dim_v] after the transform
  const std::uint8_t* widths;         // [head_dim_k / 16]
  const std::uint32_t* group_offset;  // [head_dim_k / 16]
  std::size_t half_bytes, key_norm_offset, value_norm_offset;
  int v_width;
  const float *key_norms, *value_norms;  // [16] of codes 0 .. 15; 16 codes further they are twice as large
  const CodeTable* codes;                // [7] by width
  MeanTables mean;
};

// PagePositions::Page.
struct PageStart {
  std::int32_t start;
  bool regular, full;
};

// Scratch of one thread, 64-byte aligned; M = rows_capacity * n_heads.
struct Scratch {
  float* query;  // [max(head_dim_k, 2 n_padded)] of one pair
  // Of the mean terms, with pairs of numbers per rope_block.
  float* mean_c;       // [kMeanKeys][M][n_padded] re, im of c
  float* factors;      // [kMeanRows][fast_padded + 8] of the even and the odd basis row
  float* walked_c;     // [M][n_padded] re, im of c turned to some page
  float* phase;        // [kTilePages] of the pages: [cos, cos | -sin, sin][n_padded]
  float* step_phases;  // [kTilePages] the same of 1 .. kTilePages steps from page to page
  float* angles;       // [2 panels][n_padded][cos, -sin][16] of the cells of half a page
  float* mean0;        // [M][64]

  float* logits;     // [M][kTileCells]
  float* mask;       // [rows_capacity][kTileCells]
  float* row_scale;  // [M]
  void* levels;      // of half a page of keys or of 16 or 32 dims of a tile's values: the kernel's Levels

  Quad* query_quads;                // [head_dim_k / 4][M], with room for padding; a kernel may have its own
  Quad* weight_quads;               // [kTileCells / 4][M]  form of the same size, without biases
  float *query_step, *weight_step;  // [M] value of one unit of a quad's numbers
  void *query_bias, *weight_bias;   // [M] 8 bytes each: the kernel's Bias
};

// One work item: some query rows, all query heads of one KV head, every `page_step`-th page.
struct PageJob {
  const HeadTables* head;
  const std::uint8_t* key_pages;  // this KV head in page 0
  const std::uint8_t* value_pages;
  std::size_t key_page_stride, value_page_stride;
  const std::int32_t* positions;  // [kv_len]
  const void* page_positions;     // PagePositions::Page[]
  std::int64_t kv_len;
  std::int64_t first_page, page_step;

  int n_rows, n_heads;                      // m = row * n_heads + head
  const float* q;                           // of the first row and head
  std::size_t q_row_stride, q_head_stride;  // bytes
  float sm_scale;
  const std::uint16_t* mask;         // of the first row, or null
  std::size_t mask_row_stride;       // bytes
  const std::int32_t* mask_columns;  // [kv_len] column of a cell, or null: its own
  std::int64_t n_mask_columns;       // a cell with a column from here on is not attended
  const float* slopes;               // [n_heads] or null
  float logit_softcap;

  Scratch scratch;
  // Softmax state, set by the kernel: out = sum_j exp(logit_j - row_max) v_j in rotated value space.
  float* row_max;  // [M] -inf when nothing was attended
  float* row_sum;  // [M]
  float* out;      // [M][head_dim_v]
};

using PageKernel = void (*)(const PageJob& job);

// The output row of a pair: the weighted sum of the `out` of its work items, back from the rotated value space.
struct OutputJob {
  const HeadTables* head;
  int n_parts;
  const float* const* parts;  // [n_parts], each [head_dim_v]
  const float* weights;       // [n_parts]
  float* out;                 // [head_dim_v]
};

using OutputKernel = void (*)(const OutputJob& job);

// Does about n of the multiply-adds that the kernel makes for so many pairs, and nothing else
// (kernel_multiply.inc.h); returns how many it were.
using MultiplyLoop = std::int64_t (*)(std::int64_t n, int n_pairs);

}  // namespace gtq::cpu
