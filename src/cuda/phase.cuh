// Turns of rope_blocks at a position.
#pragma once

#include <cstdint>

namespace gtq::cuda {

// e^(i theta t) for t = half_positions / 2, by exact reduction of turns per half position in 0.64 fixed point.
__device__ __forceinline__ float2 phase(uint2 half_turns, std::uint32_t half_positions) {
  const std::uint32_t turns = __umulhi(half_turns.x, half_positions) + half_turns.y * half_positions;
  const float angle = static_cast<float>(static_cast<std::int32_t>(turns)) * 0x1.921fb6p-30f;
  return make_float2(__cosf(angle), __sinf(angle));
}

}  // namespace gtq::cuda
