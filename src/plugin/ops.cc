#include "plugin/ops.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <set>

#include "gtq/error.h"

namespace gtq::plugin {
namespace {

template <typename T>
const T* at(const ggml_tensor* t, std::int64_t i1, std::int64_t i2 = 0, std::int64_t i3 = 0) {
  return reinterpret_cast<const T*>(static_cast<const char*>(t->data) + i1 * t->nb[1] + i2 * t->nb[2] +
                                    i3 * t->nb[3]);
}

std::int64_t cell_of(const ggml_tensor* indices, std::int64_t i) {
  const char* p = static_cast<const char*>(indices->data) + i * indices->nb[0];
  return indices->type == GGML_TYPE_I64 ? *reinterpret_cast<const std::int64_t*>(p)
                                        : *reinterpret_cast<const std::int32_t*>(p);
}

// First stream of the cache that this attention reads; it goes on with the next ones.
std::int64_t first_stream(const ggml_tensor* attention) {
  const ggml_tensor* k = attention->src[1];
  return static_cast<std::int64_t>(k->view_offs / root(k)->nb[2]);
}

AttentionCall attention_call(const ggml_tensor* node, std::int64_t s) {
  const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2], *mask = node->src[3];
  Cache& cache = *packed_cache(k);
  AttentionCall call;
  call.codec = cache.tensors.at(root(k)).codec;
  const std::int64_t stream = first_stream(node) + s;
  const std::int64_t pages = cache.n_cells / kPageTokens * stream;
  call.key_pages = cache.tensors.at(root(k)).pages + pages * call.codec->key_page_bytes();
  call.value_pages = cache.tensors.at(root(v)).pages + pages * call.codec->value_page_bytes();
  call.positions = &cache.positions[stream * cache.n_cells];
  call.page_positions = &cache.page_positions[stream];
  call.kv_len = k->ne[1];
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

void note_stored(Cache& cache, const ggml_tensor* store, const ggml_tensor* rope) {
  const auto* positions = static_cast<const std::int32_t*>(rope->src[1]->data);
  std::int64_t first = 0, n = 0;  // run of cells whose pages are still to be refreshed
  for (std::int64_t t = 0; t < store->src[0]->ne[1]; ++t) {
    const std::int64_t cell = cell_of(store->src[1], t);
    cache.positions[cell] = positions[t];
    if (n > 0 && cell == first + n) {
      ++n;
      continue;
    }
    cache.refresh_pages(first, n);
    first = cell;
    n = 1;
  }
  cache.refresh_pages(first, n);
}

// The layout of the cells of one page that some row of the mask lets through: regular, and where it starts.
PagePositions::Page visible_page(const std::int32_t* positions, const ggml_tensor* mask, std::int64_t stream,
                                 std::int64_t first_cell) {
  constexpr std::uint16_t kMasked = 0xfc00;  // -inf
  PagePositions::Page page;
  bool seen = false;
  const std::int64_t n = std::min<std::int64_t>(kPageTokens, mask->ne[0] - first_cell);
  for (std::int64_t row = 0; row < mask->ne[1]; ++row) {
    const auto* x = at<std::uint16_t>(mask, row, 0, stream) + first_cell;
    for (std::int64_t j = 0; j < n; ++j) {
      if (x[j] == kMasked) continue;
      const std::int32_t start = positions[first_cell + j] - static_cast<std::int32_t>(j);
      if (seen && start != page.start) return {0, false};
      page.start = start;
      seen = true;
    }
  }
  return page;
}

void forget_mask(Cache& cache) {
  for (const std::int64_t page : cache.masked_pages) cache.refresh_pages(page * kPageTokens, 1);
  cache.masked_pages.clear();
}

// llama.cpp does not say when it frees a cell, so a page that is being filled anew looks irregular, which is
// slow to attend. Only cells that the mask lets through count for this graph.
void regard_mask(Cache& cache, const ggml_tensor* attention) {
  forget_mask(cache);
  const ggml_tensor* mask = attention->src[3];
  if (mask == nullptr || mask->op != GGML_OP_NONE) return;  // not known before the graph runs
  for (std::int64_t s = 0; s < attention->src[0]->ne[3]; ++s) {
    const std::int64_t stream = first_stream(attention) + s;
    auto& pages = cache.page_positions[stream].pages;
    for (std::int64_t p = 0; p * kPageTokens < mask->ne[0]; ++p) {
      if (pages[p].regular) continue;
      pages[p] = visible_page(&cache.positions[stream * cache.n_cells], mask, s % mask->ne[3], p * kPageTokens);
      if (pages[p].regular) cache.masked_pages.push_back(cache.n_cells / kPageTokens * stream + p);
    }
  }
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

void note_positions(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> stored;
  std::map<Cache*, const ggml_tensor*> masks;
  for (int i = 0; i < n_nodes; ++i) {
    if (is_cache_store(nodes[i])) {
      Cache* cache = owned_cache(nodes[i]);
      const ggml_tensor* rope = cache != nullptr ? rope_of(nodes[i]) : nullptr;
      if (rope != nullptr && stored.insert(cache).second) note_stored(*cache, nodes[i], rope);
    } else if (is_cache_attention(nodes[i])) {
      Cache* cache = packed_cache(nodes[i]->src[1]);
      if (cache == nullptr) continue;
      const auto [first, is_first] = masks.try_emplace(cache, nodes[i]->src[3]);
      if (is_first) {
        regard_mask(*cache, nodes[i]);
      } else if (first->second != nodes[i]->src[3]) {
        forget_mask(*cache);
      }
    }
  }
}

void store_rows(const ggml_tensor* node, int thread, int n_threads) {
  Cache& cache = *packed_cache(node);
  const CacheTensor& own = cache.tensors.at(root(node));
  const LayerCodec& codec = *own.codec;
  const std::int64_t n_tokens = node->src[0]->ne[1];
  // Cells of one page share bytes, but its heads do not: they are dealt out when there are few pages.
  const int n_heads = codec.n_kv_heads(), n_shares = n_tokens < kPageTokens ? n_heads : 1;
  for (std::int64_t t = 0; t < n_tokens; ++t) {
    const std::int64_t cell = cell_of(node->src[1], t);
    const auto* x = at<float>(node->src[0], t);
    for (int share = 0; share < n_shares; ++share) {
      if ((cell / kPageTokens * n_shares + share) % n_threads != thread) continue;
      const HeadRange heads{share * n_heads / n_shares, (share + 1) * n_heads / n_shares};
      if (own.is_key) {
        codec.store_keys(own.pages, cell, x, cache.positions[cell], heads);
      } else {
        codec.store_values(own.pages, cell, x, heads);
      }
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

void shift_keys(const ggml_tensor* node, int thread, int n_threads) {
  Cache& cache = *packed_cache(node);
  const CacheTensor& own = cache.tensors.at(root(node));
  const LayerCodec& codec = *own.codec;
  const auto* shift = static_cast<const std::int32_t*>(node->src[1]->data);
  const int n_heads = codec.n_kv_heads(), head_dim = codec.head_dim_k();
  std::vector<std::uint8_t> rows(codec.key_token_bytes());
  std::vector<float> keys(static_cast<std::size_t>(n_heads) * head_dim), turn(head_dim);
  for (std::int64_t cell = 0; cell < static_cast<std::int64_t>(cache.positions.size()); ++cell) {
    const std::int32_t position = cache.positions[cell];
    if (shift[cell] == 0 || position == kEmptyCell || cell / kPageTokens % n_threads != thread) continue;
    codec.load_key_rows(own.pages, cell, rows.data());
    codec.rope().make_turn(shift[cell], turn.data());
    const std::uint8_t* row = rows.data();
    for (int h = 0; h < n_heads; ++h) {
      float* key = &keys[h * head_dim];
      codec.key_codec(h).decode(row, position, key);
      codec.rope().apply_turn(turn.data(), key, key);
      row += codec.key_codec(h).row_bytes();
    }
    own.store(cell, keys.data(), position + shift[cell]);
  }
}

void finish_shift(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> done;
  for (int i = 0; i < n_nodes; ++i) {
    if (!is_key_shift(nodes[i]) || !done.insert(owned_cache(nodes[i])).second) continue;
    Cache& cache = *owned_cache(nodes[i]);
    const auto* shift = static_cast<const std::int32_t*>(nodes[i]->src[1]->data);
    for (std::size_t cell = 0; cell < cache.positions.size(); ++cell) {
      if (cache.positions[cell] != kEmptyCell) cache.positions[cell] += shift[cell];
    }
    cache.refresh_all_pages();
  }
}

}  // namespace gtq::plugin
