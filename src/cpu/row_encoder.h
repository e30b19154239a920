// Token rows from vectors. Encoders differ in speed only: each gives the bytes that docs/format.md asks for.
// Plain structs, as for the page kernels (kernel_api.h): an encoder is compiled for its own instruction set.
#pragma once

#include <cstdint>

namespace gtq {
class KeyCodec;
class Rope;
class ValueCodec;
}  // namespace gtq

namespace gtq::cpu {

// Angles of the rope_blocks of a layer, per position.
struct TurnAngles {
  const Rope* rope;
  const double* theta;  // [n_blocks]
  int n_blocks;         // a multiple of 8
  double largest;
};

struct KeyEncoding {
  const KeyCodec* codec;
  int head_dim;
  int n_neox;                 // the first rope_blocks pair dims i and i + n_neox, the others 2 i and 2 i + 1
  const float* mean_keys;     // [kMeans][head_dim]
  const std::uint16_t* dims;  // [head_dim] slot -> dim
  const std::uint8_t* widths;
  const float* gain;          // [head_dim] by slot: sign * scale
  const float* weight;        // [head_dim] by dim, the largest is 1
  const float* group_weight;  // [head_dim / 16]
  float total_weight;         // their sum times 16
  bool one_mean;              // both mean keys are the same
};

struct ValueEncoding {
  const ValueCodec* codec;
  int head_dim, width;
  int rotation_dims;  // largest power of two dividing head_dim
  const float* gain;  // [head_dim] sign / v_rms
};

struct RowEncoder {
  // n_blocks cosines, then as many sines, as Rope::make_turn.
  void (*make_turn)(const TurnAngles& angles, std::int64_t position, float* turn);
  void (*encode_key)(const KeyEncoding& e, const float* key, const float* turn, std::uint8_t* row);
  void (*encode_value)(const ValueEncoding& e, const float* value, std::uint8_t* row);
};

extern const RowEncoder kPlainEncoder;  // src/codec itself
extern const RowEncoder kAvx2Encoder;

// Index of the nearer mean of a finite key, by sums in order; means: [kMeans][head_dim], both mean keys turned.
// KeyCodec's, for encoders of other instruction sets: they must not share inline functions with the rest.
int nearer_mean(const KeyEncoding& e, const float* key, const float* means);

// UpperCodebook, every number as often as a vector has lanes.
struct alignas(32) VectorCodebook {
  std::int16_t thresholds[31][16];
  std::int16_t levels[2][16];  // bytes: levels 0 to 15 twice, 16 to 31 twice
  float step;
};
const VectorCodebook* vector_codebooks();  // by width

}  // namespace gtq::cpu
