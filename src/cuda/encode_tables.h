// Tables of the encoder (store.cu, encode_search.cuh). A warp encodes one vector, a lane one or two runs of it:
// 4 neighbouring slots of a key, 4 neighbouring dims of a value.
#pragma once

#include <vector_types.h>

#include <cstdint>
#include <vector>

#include "cuda/page_layout.h"
#include "gtq/attention.h"

namespace gtq::cuda {

inline constexpr int kMostRuns = 64;  // of a vector: heads have at most 256 dims

struct alignas(16) NormTable {
  float norms[256];
  float starts[257];                     // smallest norm of each code; infinity past the highest
  std::int32_t lowest, highest, of_one;  // codes: the range, and that of norm 1
};

// Levels by scaled numbers (codec/fixed_point.h). Cell i holds numbers kGridStep i ..+ kGridStep - 1; the last
// one all above, too. Thresholds lie further apart than that, so a cell knows at most two levels:
//   byte 0 level below the threshold, byte 1 level above it, byte 2 index of the lower of both, byte 3 first
//   number above the threshold, counted from the start of the cell; 255 without one
inline constexpr int kGridStep = 32, kGridCells = 128;
struct alignas(16) LevelGrid {
  std::uint32_t cells[kMaxWidth][kGridCells];  // [width - 1]
};

// Runs past the end of a key have gain 0 and weights 0.
struct alignas(16) KeyRun {
  std::uint16_t dims[4];
  float yc_weight, cc_weight;  // group_weight * codebook step, times the step again
  float gain[4];               // sign * scale
  float weight[4];             // of errors, times a power of two: at most 1
  float group_weight;
  std::int32_t width;
  std::uint32_t offset;  // bytes of the quant_group in a page of the head
};

// A rope_block that has a mean key.
struct alignas(16) CentredPair {
  double theta;           // radians per position
  float mean[kMeans][2];  // by dim of the rope_block
  std::int32_t slot;      // of the first dim; the second follows
};

struct EncodeHead {
  float total_weight;      // sum of the group weights over all slots
  std::int32_t n_centred;  // CentredPairs
  std::int32_t one_mean;   // both mean keys are the same
};

// Of all KV heads, in device memory.
struct EncodeTables {
  const EncodeHead* heads;
  const KeyRun* key_runs;      // [kv_head][kMostRuns]
  const CentredPair* centred;  // [kv_head][head_dim_k / 2], the rest zeros
  const float4* value_gains;   // [kv_head][kMostRuns] sign / v_rms; 0 past the end
  float value_step;            // of the codebook
  float value_rotation_scale;  // 1 / sqrt(points of the Hadamard transform)
};

NormTable key_norm_table();
NormTable value_norm_table();
LevelGrid level_grid();

// What a head adds to the arrays of EncodeTables.
EncodeHead encode_head(const LayerCodec& codec, int kv_head);
std::vector<KeyRun> key_runs(const LayerCodec& codec, int kv_head);
std::vector<CentredPair> centred_pairs(const LayerCodec& codec, int kv_head);
std::vector<float4> value_gains(const HeadPlan& plan);

}  // namespace gtq::cuda
