// Prefill by a named kernel; prefill() takes the best one.
#pragma once

#include "gtq/cuda.h"

namespace gtq::cuda {

enum class PrefillKernel {
  kSm80,  // every GPU
  kSm90,  // compute capability 9.0, in builds for 90a
};

PrefillKernel best_prefill_kernel(const Layer& layer);
void prefill_with(PrefillKernel kernel, const PrefillCall& call, Stream stream);

}  // namespace gtq::cuda
