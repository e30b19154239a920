#include "plugin/ops.h"

#include <cstring>

#include "gtq/error.h"
#include "plugin/tensor_view.h"

namespace gtq::plugin {
namespace {

void set_pages(const CodedPages& keys, const CodedPages& values, std::int64_t first_page,
               PackedTokens& tokens) {
  tokens.codec = keys.codec;
  tokens.key_pages = keys.bytes + first_page * keys.page_bytes();
  tokens.value_pages = values.bytes + first_page * values.page_bytes();
}

void set_recent(Cache& cache, const CacheTensor& keys, const CacheTensor& values, std::int64_t stream,
                AttentionCall& call) {
  const std::int64_t n_slots = cache.recent.n_slots();
  set_pages(keys.recent, values.recent, n_slots / kPageTokens * stream, call.recent);
  call.recent.positions = cache.recent.positions_of(stream);
  call.recent.page_positions = &cache.recent.page_positions(stream);
  call.recent.kv_len = n_slots;
  call.recent_cells = cache.recent.cells_of(stream);
}

AttentionCall attention_call(const ggml_tensor* node, std::int64_t s) {
  const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2], *mask = node->src[3];
  Cache& cache = *packed_cache(k);
  const CacheTensor &keys = cache.tensors.at(root(k)), &values = cache.tensors.at(root(v));
  const std::int64_t stream = first_stream(node) + s;
  AttentionCall call;
  set_pages(keys.pages, values.pages, cache.n_cells / kPageTokens * stream, call);
  call.positions = &cache.positions[stream * cache.n_cells];
  call.page_positions = &cache.page_positions[stream];
  call.kv_len = k->ne[1];
  if (cache.recent.n_slots() > 0) set_recent(cache, keys, values, stream, call);
  call.n_q_heads = static_cast<int>(q->ne[2]);
  call.n_rows = q->ne[1];
  call.q = at<float>(q, 0, 0, s);
  call.q_row_stride = q->nb[1];
  call.q_head_stride = q->nb[2];
  if (mask != nullptr) {
    call.mask = at<std::uint16_t>(mask, 0, 0, s % mask->ne[3]);
    call.mask_row_stride = mask->nb[1];
  }
  if (node->src[4] != nullptr) call.sinks = static_cast<const float*>(node->src[4]->data);
  call.out = const_cast<float*>(at<float>(node, 0, 0, s));
  call.out_row_stride = node->nb[2];
  call.out_head_stride = node->nb[1];
  std::memcpy(&call.sm_scale, &node->op_params[0], 4);
  std::memcpy(&call.alibi_max_bias, &node->op_params[1], 4);
  std::memcpy(&call.logit_softcap, &node->op_params[2], 4);
  return call;
}

void do_moves(CacheTensor& own, SpinBarrier& barrier, int thread, int n_threads) {
  if (own.moves.empty()) return;
  own.do_moves(thread, n_threads);
  barrier.wait(n_threads);
  if (thread == 0) own.moves.clear();
}

}  // namespace

bool is_cache_store(const ggml_tensor* node) {
  return node->op == GGML_OP_SET_ROWS && cache_name(root(node)).has_value() &&
         node->src[0]->type == GGML_TYPE_F32;
}

bool is_cache_attention(const ggml_tensor* node) {
  return node->op == GGML_OP_FLASH_ATTN_EXT && cache_name(root(node->src[1])).has_value();
}

bool is_key_shift(const ggml_tensor* node) { return node->op == GGML_OP_ROPE && owned_cache(node) != nullptr; }

const ggml_tensor* rope_of(const ggml_tensor* store) {
  const ggml_tensor* t = store->src[0];
  while (t != nullptr && (t->op == GGML_OP_VIEW || t->op == GGML_OP_RESHAPE || t->op == GGML_OP_PERMUTE)) {
    t = t->src[0];
  }
  return t != nullptr && t->op == GGML_OP_ROPE ? t : nullptr;
}

RopeParams rope_params(const ggml_tensor* rope) {
  RopeParams p;
  if ((rope->op_params[2] != 0 && rope->op_params[2] != 2) || rope->op_params[15] != 0) {
    throw Error(
        "the RoPE of this model (several positions per token, or an offset) is not supported by gtq; run it "
        "without gtq");
  }
  p.mode = static_cast<RopeMode>(rope->op_params[2]);
  p.n_rot = rope->op_params[1];
  p.n_ctx_orig = rope->op_params[4];
  std::memcpy(&p.freq_base, &rope->op_params[5], 4);
  std::memcpy(&p.freq_scale, &rope->op_params[6], 4);
  std::memcpy(&p.ext_factor, &rope->op_params[7], 4);
  std::memcpy(&p.beta_fast, &rope->op_params[9], 4);
  std::memcpy(&p.beta_slow, &rope->op_params[10], 4);
  if (rope->src[2] != nullptr) {
    const auto* factors = static_cast<const float*>(rope->src[2]->data);
    p.freq_factors.assign(factors, factors + p.n_rot / 2);
  }
  return p;
}

void store_rows(const ggml_tensor* node, SpinBarrier& barrier, int thread, int n_threads) {
  Cache& cache = *packed_cache(node);
  CacheTensor& own = cache.tensors.at(root(node));
  do_moves(own, barrier, thread, n_threads);  // before their slots are written
  const std::int64_t n_tokens = node->src[0]->ne[1];
  // As moves are, but heads are only dealt out when there are few pages.
  const int n_heads = own.pages.codec->n_kv_heads(), n_shares = n_tokens < kPageTokens ? n_heads : 1;
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    const TokenPlace place = cache.place_of(own, cell_of(node->src[1], t));
    for (int share = 0; share < n_shares; ++share) {
      if ((place.at / kPageTokens * n_shares + share) % n_threads != thread) continue;
      place.pages->store(place.at, at<float>(node->src[0], t), place.position,
                         {share * n_heads / n_shares, (share + 1) * n_heads / n_shares});
    }
  }
}

std::size_t attention_workspace(const ggml_tensor* node, int n_threads) {
  return attention_workspace_bytes(attention_call(node, 0), n_threads);
}

void run_attention(const ggml_tensor* node, void* workspace, SpinBarrier& barrier, int thread, int n_threads) {
  for (std::int64_t s = 0; s < node->src[0]->ne[3]; ++s) {
    if (s > 0) barrier.wait(n_threads);  // the workspace of the stream before must be free
    attention(attention_call(node, s), workspace, barrier, thread, n_threads);
  }
}

void shift_keys(const ggml_tensor* node, SpinBarrier& barrier, int thread, int n_threads) {
  Cache& cache = *packed_cache(node);
  CacheTensor& own = cache.tensors.at(root(node));
  do_moves(own, barrier, thread, n_threads);
  const LayerCodec& codec = *own.pages.codec;
  const auto* shift = static_cast<const std::int32_t*>(node->src[1]->data);
  const int head_dim = codec.head_dim_k();
  const HeadRange heads = own.pages.all_heads();
  std::vector<float> keys(static_cast<std::size_t>(heads.end) * head_dim), turn(head_dim);
  for (std::int64_t cell = 0; cell < static_cast<std::int64_t>(cache.positions.size()); ++cell) {
    const TokenPlace place = cache.place_of(own, cell);
    const bool is_mine = place.at / kPageTokens % n_threads == thread;
    if (shift[cell] == 0 || place.position == kEmptyCell || !is_mine) continue;
    place.pages->load(place.at, keys.data(), place.position, heads);
    codec.rope().make_turn(shift[cell], turn.data());
    for (int h = 0; h < heads.end; ++h)
      codec.rope().apply_turn(turn.data(), &keys[h * head_dim], &keys[h * head_dim]);
    place.pages->store(place.at, keys.data(), place.position + shift[cell], heads);
  }
}

}  // namespace gtq::plugin
