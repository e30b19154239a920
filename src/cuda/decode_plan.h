// How a decode call is spread over the GPU: thread blocks, warps, stages and shared memory.
#pragma once

#include "cuda/decode_params.h"
#include "cuda/layer.h"

namespace gtq::cuda {

// Fills the fields of `params` that follow from shapes; throws Error when the heads do not fit the GPU.
// Returns bytes of dynamic shared memory.
int plan_decode(const Layer::Impl& layer, const DecodeCall& call, DecodeParams& params);

}  // namespace gtq::cuda
