// Orthonormal Sylvester Hadamard transform, in place.
#pragma once

#include <cmath>

namespace gtq {

// The stages of sizes from 1 to below 16, of 16 numbers.
inline void hadamard_stages_of_16(float* x) {
  for (int half = 1; half < 16; half *= 2) {
    for (int i = 0; i < 16; ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i];
      const float b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
}

// n is a power of two, at least 16.
inline void hadamard(float* x, int n) {
  for (int i = 0; i < n; i += 16) hadamard_stages_of_16(x + i);
  for (int half = 16; half < n; half *= 2) {
    for (int i = 0; i < n; i += 2 * half) {
      for (int j = i; j < i + half; ++j) {
        const float a = x[j];
        const float b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (int i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace gtq
