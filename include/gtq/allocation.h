// From energies and a budget to the exact way each head is coded (paper, section 3.2: greedy marginal gain).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gtq/profile.h"

namespace gtq {

inline constexpr int kGroupDims = 16;  // dims of a quant_group = 8 rope_blocks
inline constexpr int kMinWidth = 1;
inline constexpr int kMaxWidth = 6;

// Average nominal bits per value of keys and of values, 1 to 6 in steps of 0.01; true bits add one norm byte
// per key and per value.
struct Budget {
  double k_bits = 4;
  double v_bits = 4;
};

// "k4v4" -> {4, 4}, "k3.5v3.25" -> {3.5, 3.25}. Throws Error for anything else.
Budget parse_budget(std::string_view text);
std::string to_string(const Budget& budget);
int hundredths(double bits);  // 3.25 -> 325

// What a cache spends: a budget on its tokens, and kRecentBudget on the first 64 and so many of the last ones,
// a multiple of 64.
struct CacheBudget {
  Budget tokens;
  int recent = 0;
};
inline constexpr Budget kRecentBudget{6, 6};
inline constexpr int kMostRecent = 1024;

// "k4v4" -> {{4, 4}, 0}, "k3v3r128" -> {{3, 3}, 128}. Throws Error for anything else.
CacheBudget parse_cache_budget(std::string_view text);
std::string to_string(const CacheBudget& budget);

// How one KV head is coded. A slot is a place in coded order: slot 16 g + 2 b + r is dim r of rope_block b of
// quant_group g. Groups are ascending by width.
struct HeadPlan {
  int head_dim_k = 0;
  int head_dim_v = 0;
  std::vector<std::uint16_t> dims;   // [head_dim_k]  slot -> dim of the head
  std::vector<std::uint8_t> widths;  // [head_dim_k / 16]  bits of a code, per quant_group
  std::vector<float> scale;          // [head_dim_k]  per slot: a_i / sigma_g, multiplies the residual
  std::vector<float> weight;  // [head_dim_k]  per slot: E_q[i], the importance of an error in that rope_block
  std::vector<float> mean_keys;       // [kMeans][head_dim_k]  by dim; 0 in rope_blocks that are not centred
  std::vector<std::uint8_t> centred;  // [head_dim_k / 2]  by rope_block: 1 where a mean key is subtracted
  int v_width = 0;
  float v_rms = 0;  // reference of the value norm, > 0
};

// The budget of each layer of a model, in their order: a whole number of bits for all groups of a key together
// and one width for values, the same for all heads of the layer. What lies between two such steps goes to the
// first layers. The average over the model's values misses the budget by less than one step of one layer and
// never exceeds it.
std::vector<Budget> share_budget(const Profile& profile, const Budget& budget);

// One plan per KV head of the layer. Sum of widths = k_bits * number of groups, which must be a whole number,
// as v_bits must.
std::vector<HeadPlan> plan_layer(const LayerProfile& layer, const Budget& budget);

// Mean squared error of the width-bit Lloyd-Max codebook on a unit Gaussian (codec.h), width 1..6.
double gaussian_distortion(int width);

// Bits stored per key value and per value value, norms included.
double true_bits_k(int head_dim, const Budget& budget);
double true_bits_v(int head_dim, const Budget& budget);

}  // namespace gtq
