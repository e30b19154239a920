// Launch of the decode kernel (decode_kernel.cuh).
#include "cuda/decode_kernel.cuh"
#include "cuda/decode_plan.h"
#include "cuda/logits.cuh"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

void check_call(const DecodeCall& call) {
  const Sequences& sequences = call.sequences;
  check_heads(call.layer->impl(), call.n_q_heads);
  if (call.n_rows < 1 || call.n_rows > 8) throw Error("decode on the GPU takes 1 to 8 query rows per sequence");
  if (sequences.batch < 1 || sequences.batch > 65535) {
    throw Error("decode on the GPU takes 1 to 65535 sequences");
  }
  if (sequences.kv_len < 0) throw Error("the number of keys is negative");
  const bool paged = sequences.indptr != nullptr;
  if (paged != (sequences.indices != nullptr) || paged != (sequences.last_page_len != nullptr)) {
    throw Error("paged sequences need all of indptr, indices and last_page_len, dense ones none");
  }
  if (!paged && sequences.batch > 1 && sequences.kv_len > kCells * sequences.pages_per_sequence) {
    throw Error("dense sequences have more keys than pages_per_sequence hold");
  }
  if (call.cache.summaries != nullptr && call.cache.positions == nullptr) {
    throw Error("decode needs the positions of cells where it is given summaries of pages");
  }
  if (call.workspace == nullptr) throw Error("decode on the GPU needs a workspace");
}

DecodeParams make_params(const DecodeCall& call) {
  const Layer::Impl& layer = call.layer->impl();
  DecodeParams p{};
  p.call = call;
  p.layer = layer.view;
  p.luts = layer.luts;
  p.logit_scale = call.sm_scale * kLog2E;
  p.header = static_cast<WorkspaceHeader*>(call.workspace);
  p.partials = reinterpret_cast<uint2*>(p.header + 1);
  return p;
}

struct Launch {
  DecodeParams params;
  int shared_bytes;
  Stream stream;
};

template <int VD, bool kShaped, int kValueWidth, int kPairs>
void start(const Launch& launch) {
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
void start_span(const Launch& launch) {
  if constexpr (most_pairs(VD) == kTeamPairs) {
    if (launch.params.span_pairs == kTeamPairs) return start<VD, kShaped, kValueWidth, kTeamPairs>(launch);
  }
  if (launch.params.span_pairs == kWidePairs) return start<VD, kShaped, kValueWidth, kWidePairs>(launch);
  start<VD, kShaped, kValueWidth, kNarrowPairs>(launch);
}

// Values of 3 bits, the usual ones, have kernels of their own.
template <int VD, bool kShaped>
void start_width(const Launch& launch) {
  if (launch.params.layer.v_width == 3) {
    start_span<VD, kShaped, 3>(launch);
  } else {
    start_span<VD, kShaped, 0>(launch);
  }
}

template <int VD>
void start_shape(const Launch& launch) {
  if (launch.params.call.mask != nullptr || launch.params.call.logit_softcap > 0.0f) {
    start_width<VD, true>(launch);
  } else {
    start_width<VD, false>(launch);
  }
}

}  // namespace

std::size_t decode_workspace_bytes(const DecodeCall& call) {
  const Layer::Impl& impl = call.layer->impl();
  const int n_pairs = call.n_q_heads / impl.view.n_kv_heads * call.n_rows;
  const int span_pairs = n_pairs > kWidePairs ? most_pairs(impl.view.head_dim_v) : kWidePairs;
  // Splits are only made while they fit the GPU at once, whatever the batch.
  return sizeof(WorkspaceHeader) +
         static_cast<std::size_t>(impl.n_sms) * span_pairs * (impl.view.head_dim_v + 2) * sizeof(uint2);
}

void decode(const DecodeCall& call, Stream stream) {
  check_call(call);
  Launch launch{make_params(call), 0, stream};
  launch.shared_bytes = plan_decode(call.layer->impl(), call, launch.params);
  switch (launch.params.layer.head_dim_v) {
    case 64:
      return start_shape<64>(launch);
    case 96:
      return start_shape<96>(launch);
    case 128:
      return start_shape<128>(launch);
    case 256:
      return start_shape<256>(launch);
    default:
      throw Error("decode on the GPU supports value heads of 64, 96, 128 and 256 dims");
  }
}

}  // namespace gtq::cuda
