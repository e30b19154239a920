// Codec of recipe `gtq`: one key or value vector <-> token row (docs/format.md, normative).
//   key row:   norm byte (bit 7: mean index c, bits 0..6: log2 scale), then codes group by group
//   value row: norm byte (log2 norm relative to v_rms),               then codes
// Codes are little-endian bit strings; a group of 16 codes of width b takes 2 b bytes.
// Scalar and portable: every other implementation (src/cpu, src/cuda) must give the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/rope.h"

namespace gtq {

inline constexpr int kMaxHeadDim = 1024;

// Centroids of the Lloyd-Max quantizer of a unit Gaussian with 2^width levels, ascending, on a signed int8
// grid: centroid = level * codebook_step(width), |level| <= 127.
const std::int8_t* codebook_levels(int width);  // [2^width]
float codebook_step(int width);

// Signs of the random Hadamard transform: +1 or -1 for position i of stream `stream` (0 keys, 1 values);
// generator in docs/format.md.
float rotation_sign(int stream, int i);

// Scale of a norm byte: keys 2^((code - 48) / 16) for the 7-bit code; values v_rms * 2^((code - 160) / 16),
// 0 for code 0.
float key_norm(std::uint8_t norm_byte);
int key_mean_index(std::uint8_t norm_byte);
float value_norm(std::uint8_t norm_byte);  // relative to v_rms

std::size_t key_row_bytes(const HeadPlan& plan);
std::size_t value_row_bytes(const HeadPlan& plan);

class KeyCodec {
 public:
  // The plan and the rope must outlive the codec.
  KeyCodec(const HeadPlan& plan, const Rope& rope);

  std::size_t row_bytes() const { return row_bytes_; }
  // Weight of an error of the transformed key in each quant_group, the largest 1.
  const std::vector<float>& group_weights() const { return group_weight_; }
  // key: head_dim floats after RoPE at `position`. Values that are not finite are coded as 0.
  void encode(const float* key, std::int32_t position, std::uint8_t* row) const;
  // `turn` is that of the position (Rope::make_turn); heads of one layer share it.
  void encode(const float* key, const float* turn, std::uint8_t* row) const;
  void decode(const std::uint8_t* row, std::int32_t position, float* key) const;
  void decode(const std::uint8_t* row, const float* turn, float* key) const;
  // Both mean keys at the position of a turn. [kMeans][head_dim]
  void turn_means(const float* turn, float* means) const;
  // Index of the one that is nearer to a finite key.
  int nearer_mean(const float* key, const float* means) const;

 private:
  // The residual only, in coded (slot) order, before the norm: codebook values. [head_dim]
  void unpack(const std::uint8_t* row, float* centroids) const;

  const HeadPlan& plan_;
  const Rope& rope_;
  std::size_t row_bytes_;
  std::vector<float> group_weight_;  // [n_groups]
  std::vector<float> signs_;         // [head_dim]
};

class ValueCodec {
 public:
  explicit ValueCodec(const HeadPlan& plan);

  std::size_t row_bytes() const { return row_bytes_; }
  void encode(const float* value, std::uint8_t* row) const;
  void decode(const std::uint8_t* row, float* value) const;

 private:
  const HeadPlan& plan_;
  std::size_t row_bytes_;
  int rotation_dims_;  // largest power of two dividing head_dim
  std::vector<float> signs_;
};

}  // namespace gtq
