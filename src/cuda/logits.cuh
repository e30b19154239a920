// Slopes of ALiBi, for every attention kernel.
#pragma once

#include "cuda/logits.h"

namespace gtq::cuda {

// ALiBi (Press et al. 2022) as ggml computes it, also for head counts that are no power of two.
__device__ __forceinline__ float alibi_slope(float max_bias, int n_heads, int head) {
  if (max_bias <= 0.0f) return 1.0f;
  const int n = 1 << (31 - __clz(n_heads));
  const float n_f = static_cast<float>(n);
  return head < n ? exp2f(-max_bias / n_f * static_cast<float>(head + 1))
                  : exp2f(-max_bias / 2 / n_f * static_cast<float>(2 * (head - n) + 1));
}

}  // namespace gtq::cuda
