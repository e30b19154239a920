// Decode: checks a call, plans it and starts the kernel for its heads.
#include "cuda/decode_launch.h"
#include "cuda/decode_plan.h"
#include "cuda/logits.h"
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
  DecodeLaunch launch{make_params(call), 0, stream};
  launch.shared_bytes = plan_decode(call.layer->impl(), call, launch.params);
  switch (launch.params.layer.head_dim_v) {
    case 64:
      return start_decode<64>(launch);
    case 96:
      return start_decode<96>(launch);
    case 128:
      return start_decode<128>(launch);
    case 256:
      return start_decode<256>(launch);
    default:
      throw Error("decode on the GPU supports value heads of 64, 96, 128 and 256 dims");
  }
}

}  // namespace gtq::cuda
