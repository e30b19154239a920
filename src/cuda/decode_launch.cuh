// Starts the decode kernel (decode_kernel.cuh) for values of VD dims. Each size has a file of its own,
// decode_vd*.cu, so that they compile side by side.
#pragma once

#include "cuda/decode_kernel.cuh"
#include "cuda/decode_launch.h"
#include "cuda/layer.h"

namespace gtq::cuda {

template <int VD, bool kShaped, int kValueWidth, int kPairs>
void start(const DecodeLaunch& launch) {
  const DecodeParams& p = launch.params;
  const Layer::Impl& layer = p.call.layer->impl();
  const auto kernel = decode_kernel<VD, kShaped, kValueWidth, kPairs>;
  // The same for every layer: calls from several threads do not change it under each other.
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             layer.max_shared_bytes - kMostStaticSharedBytes),
        "reserve shared memory for decode");
  cudaLaunchAttribute attributes[2];
  int n_attributes = 0;
  if (p.n_splits > 1) {
    attributes[n_attributes].id = cudaLaunchAttributeCooperative;
    attributes[n_attributes++].val.cooperative = 1;
  }
  if (p.call.begins_early && layer.compute_capability >= 90) {
    attributes[n_attributes].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[n_attributes++].val.programmaticStreamSerializationAllowed = 1;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(p.n_splits, p.layer.n_kv_heads * p.n_spans, p.call.sequences.batch);
  config.blockDim = dim3(32 * p.n_warps);
  config.dynamicSmemBytes = launch.shared_bytes;
  config.stream = launch.stream;
  config.attrs = attributes;
  config.numAttrs = static_cast<unsigned>(n_attributes);
  check(cudaLaunchKernelEx(&config, kernel, p), "start the GPU kernel decode");
}

template <int VD, bool kShaped, int kValueWidth>
void start_span(const DecodeLaunch& launch) {
  if constexpr (most_pairs(VD) == kTeamPairs) {
    if (launch.params.span_pairs == kTeamPairs) return start<VD, kShaped, kValueWidth, kTeamPairs>(launch);
  }
  if (launch.params.span_pairs == kWidePairs) return start<VD, kShaped, kValueWidth, kWidePairs>(launch);
  start<VD, kShaped, kValueWidth, kNarrowPairs>(launch);
}

// Values of 3 bits, the usual ones, have kernels of their own.
template <int VD, bool kShaped>
void start_width(const DecodeLaunch& launch) {
  if (launch.params.layer.v_width == 3) {
    start_span<VD, kShaped, 3>(launch);
  } else {
    start_span<VD, kShaped, 0>(launch);
  }
}

template <int VD>
void start_decode(const DecodeLaunch& launch) {
  if (launch.params.call.mask != nullptr || launch.params.call.logit_softcap > 0.0f) {
    start_width<VD, true>(launch);
  } else {
    start_width<VD, false>(launch);
  }
}

}  // namespace gtq::cuda
