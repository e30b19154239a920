// Geometry of rotary position embedding (Su et al. 2021): which two dims of a head rotate together (a
// rope_block) and by which angle per position. Includes YaRN and Llama 3 frequency factors as far as they
// stay linear in the position, which all of llama.cpp's do. The YaRN magnitude is not part of the rotation:
// every function here is a pure rotation, so keys and means scaled by it stay consistent.
#pragma once

#include <cstdint>
#include <vector>

namespace gtq {

// Values are those of ggml's rope mode, the only place where they are fixed.
enum class RopeMode : std::uint32_t { kInterleaved = 0, kNeox = 2 };

struct RopeParams {
  RopeMode mode = RopeMode::kInterleaved;
  int n_rot = 0;  // dims that rotate, even, <= head_dim; the rest keep theta = 0
  float freq_base = 10000.0f;
  float freq_scale = 1.0f;
  float ext_factor = 0.0f;  // YaRN mix; 0 = off
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  int n_ctx_orig = 0;               // trained context, used by YaRN only
  std::vector<float> freq_factors;  // empty or n_rot / 2 divisors of the frequency

  bool operator==(const RopeParams&) const = default;
};

// Blocks of one head: block i rotates dims first(i) and second(i) by theta(i) radians per position.
// head_dim is a multiple of 16; n_blocks() = head_dim / 2; blocks past n_rot / 2 pair neighbours, theta 0.
class Rope {
 public:
  Rope(int head_dim, const RopeParams& params);  // throws Error when the parameters make no sense

  int head_dim() const { return head_dim_; }
  int n_blocks() const { return head_dim_ / 2; }
  int first(int block) const { return first_[block]; }
  int second(int block) const { return second_[block]; }
  double theta(int block) const { return theta_[block]; }
  const std::vector<double>& thetas() const { return theta_; }

  // out = R_position in (head_dim floats); in and out may be the same array.
  void rotate(const float* in, std::int64_t position, float* out) const;
  // The same in two steps, for many vectors at one position: `turn` holds n_blocks cosines, then as many sines.
  void make_turn(std::int64_t position, float* turn) const;
  void apply_turn(const float* turn, const float* in, float* out) const;

 private:
  int head_dim_;
  std::vector<int> first_, second_;
  std::vector<double> theta_;
};

}  // namespace gtq
