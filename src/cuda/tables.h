// Device-side description of a layer: constants per KV head, and where its bytes lie. Written once by layer.cc.
#pragma once

#include <vector_types.h>

#include <cstdint>

#include "cuda/encode_tables.h"
#include "cuda/page_layout.h"

namespace gtq::cuda {

inline constexpr int kMaxGroups = 16;              // quant_groups of a head: head_dim_k <= 256
inline constexpr int kMeanBlocks = 8;              // centred rope_blocks come in mean groups of 8
inline constexpr int kSlopes = 5, kFewSlopes = 2;  // powers of a slow rope_block's angle (decode_mean.cuh)

// Whether the series of cosine and sine are exact to 2^-20 within a page: up to kSlopes powers, what is left
// out is (theta 31.5)^6 / 720; up to kFewSlopes, (theta 31.5)^3 / 6.
GTQ_HD bool is_slow(double theta) { return theta * 31.5 < 0.297; }
GTQ_HD bool is_very_slow(double theta) { return theta * 31.5 < 0.0178; }

// A centred rope_block.
struct alignas(16) MeanBlock {
  std::uint64_t half_turns;  // theta / (4 pi) as 0.64 fixed point
  float slopes[kSlopes];     // -theta, -theta^2 / 2, theta^3 / 6, ...
  float unused;
};

// Byte permute tables of the codebooks (codebook.cuh), passed as kernel argument: constant bank operands.
struct Luts {
  std::uint32_t w1, w2;
  std::uint32_t w3[2], w4[4], w5[8], w6[16];
};

// One KV head. Pointers are into the same device allocation.
struct HeadTable {
  std::uint32_t key_bytes, value_bytes;            // of a page of this head
  std::uint32_t key_offset, value_offset;          // in a page of all heads
  std::uint32_t key_row_offset, value_row_offset;  // in a token row of all heads
  float v_rms;

  const std::uint8_t* widths;  // [n_groups]
  const std::uint16_t* dims;   // [head_dim_k] slot -> dim
  const float* scale;          // [head_dim_k] slot
  const float* mean_keys;      // [2][head_dim_k] by dim
  // Slots 2 i and 2 i + 1 are the dims of one rope_block:
  const std::uint8_t* pair_centred;      // [head_dim_k / 2]
  const std::uint64_t* pair_half_turns;  // [head_dim_k / 2] theta / (4 pi) as 0.64 fixed point
};

// What decode keeps of a KV head in shared memory: one run of bytes that a thread block loads at once. Byte
// offsets of its parts, all multiples of 16; n = 8 mean groups of the head that has most, zeros where a head
// has fewer. Fast mean groups, those with some rope_block that is not slow, come first.
struct DecodeBlock {
  int basis;        // [fast group][4 r][32 lanes][4] f16x2: B fragments (decode_mean.cuh)
  int mean_blocks;  // [n] MeanBlock
  int gain;         // [head_dim_k] f32, slot: sign / scale * codebook step / 4 (Hadamard norm)
  int value_signs;  // [head_dim_v] f32
  int mean_values;  // [2 means][n][2] f32, mean key before RoPE of the centred rope_blocks
  int dims;         // [head_dim_k] u16, slot -> dim
  int mean_dims;    // [n][2] u16, dims of the centred rope_blocks
  int scalars;      // DecodeScalars
  int bytes;
};

struct alignas(16) DecodeScalars {
  std::uint32_t group_counts;  // quant_groups of width w: 5 bits at 5 (w - 1); groups ascend by width
  std::int16_t n_mean_groups;  // groups of 8 centred rope_blocks, the last padded with zeros
  std::int16_t n_fast_groups;  // of these
  std::int32_t n_slopes;       // that the other groups need: kSlopes or kFewSlopes
  float v_gain;                // v_rms * step of the value codebook
};

GTQ_HD DecodeBlock decode_block(int head_dim_k, int head_dim_v, int n_mean_groups, int n_fast_groups) {
  const int n = n_mean_groups * kMeanBlocks;
  DecodeBlock b{};
  b.mean_blocks = b.basis + n_fast_groups * kMeanBlocks * 256;
  b.gain = b.mean_blocks + n * static_cast<int>(sizeof(MeanBlock));
  b.value_signs = b.gain + head_dim_k * 4;
  b.mean_values = b.value_signs + head_dim_v * 4;
  b.dims = b.mean_values + n * 16;
  b.mean_dims = b.dims + head_dim_k * 2;
  b.scalars = b.mean_dims + n * 4;
  b.bytes = b.scalars + static_cast<int>(sizeof(DecodeScalars));
  return b;
}

// Codec tables that do not depend on the head.
struct alignas(16) CodecTable {
  float key_signs[256], value_signs[256];
  float centroids[kMaxWidth][64];
  NormTable key_norms, value_norms;
  LevelGrid levels;
};

// Passed to kernels by value.
struct LayerView {
  const HeadTable* heads;
  const CodecTable* codec;
  const uint4* decode_blocks;  // [kv_head] DecodeBlock
  EncodeTables encode;
  int n_kv_heads, head_dim_k, head_dim_v, v_width;
  int n_mean_groups, n_fast_groups;                  // of the heads that have most
  std::uint32_t key_bytes, value_bytes;              // of a page of one head; all heads have the same budget
  std::uint32_t key_page_bytes, value_page_bytes;    // of all heads
  std::uint32_t key_token_bytes, value_token_bytes;  // of all heads
};

}  // namespace gtq::cuda
