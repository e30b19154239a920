// The methods of arXiv 2606.24033 as published, simulated: a row goes through quantize and dequantize and
// stays in floats. They are what recipe `gtq` is compared with.
//   tq-mse      whole head: random rotation, optimal scalar codebook of a sphere coordinate, one fp16 norm
//   block-gtq   keys: rope_blocks get widths from their energies; tq-mse within each set of equal width
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gtq/profile.h"

namespace gtq::reference {

// x = |x| * u; y = Q u with a Haar-random rotation Q; every y_i is coded by the Lloyd-Max codebook of one
// coordinate of a uniform point on the sphere. The result is Q^T y_hat scaled to the stored norm.
// Immutable and safe to use from several threads.
class TqMse {
 public:
  // dim >= 2, bits 1..8. Rotations and codebooks are shared between objects with the same arguments.
  TqMse(int dim, int bits, std::uint64_t seed);

  // dim floats; in and out may be the same array. Values that are not finite count as 0.
  void simulate(const float* in, float* out) const;
  double true_bits() const { return bits_ + 16.0 / dim_; }  // per value, the norm included
  int dim() const { return dim_; }

 private:
  struct Rotation;
  static std::shared_ptr<const Rotation> shared_rotation(int dim, std::uint64_t seed);
  float nearest_centroid(float x) const;

  int dim_, bits_;
  std::shared_ptr<const Rotation> rotation_;
  std::vector<float> centroids_, thresholds_;
};

// Widths 1..8 of rope_blocks with energies s_i, average `avg_bits`: every rope_block starts at 1 bit, then each
// further bit goes where it lowers sum s_i 4^-b_i most (the lower index on ties). Optimal, since 4^-b is
// convex.
std::vector<int> greedy_widths(const std::vector<double>& energies, int avg_bits);

// Keys of one KV head after RoPE. s_i = E_q[i] + E_k[i].
class BlockGtq {
 public:
  BlockGtq(const LayerProfile& layer, int kv_head, int k_bits);

  // head_dim_k floats; in and out may be the same array.
  void simulate(const float* in, float* out) const;
  double true_bits() const;
  const std::vector<int>& widths() const { return widths_; }  // [head_dim_k / 2], by rope_block

 private:
  struct Group {
    std::vector<int> dims;
    TqMse quantizer;
  };
  int head_dim_;
  std::vector<int> widths_;
  std::vector<Group> groups_;
};

}  // namespace gtq::reference
