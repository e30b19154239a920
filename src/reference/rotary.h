// Rotary position embedding (Su et al. 2021) of one head, as ggml's rope operator defines it.
#pragma once

#include <cstdint>
#include <vector>

#include "gtq/rope.h"

namespace gtq::reference {

// Two dims that rotate together, by theta radians per position (0 past n_rot).
struct RopeBlock {
  int first = 0, second = 0;
  double theta = 0;
};

std::vector<RopeBlock> rope_blocks(int head_dim, const RopeParams& params);  // [head_dim / 2]

// in rotated to `position`.
std::vector<double> rotate(const std::vector<double>& in, const std::vector<RopeBlock>& blocks,
                           std::int64_t position);

}  // namespace gtq::reference
