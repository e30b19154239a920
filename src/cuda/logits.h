// Kernels take exponentials to base 2: logits are scaled by log2(e).
#pragma once

namespace gtq::cuda {

inline constexpr float kLog2E = 1.44269504f;

}  // namespace gtq::cuda
