// The KV cache behind llama.cpp's cache tensors. It is packed from the start when its packing is known; without
// a profile it holds staged rows, llama.cpp's own f16 ones, until pack().
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "gtq/attention.h"
#include "plugin/mapping.h"
#include "plugin/packing.h"
#include "plugin/recent_tokens.h"

namespace gtq::plugin {

inline const ggml_tensor* root(const ggml_tensor* t) { return t->view_src != nullptr ? t->view_src : t; }

// A tensor named cache_k_l<layer> or cache_v_l<layer>, and nothing else.
struct CacheName {
  bool is_key;
  int layer;
};
std::optional<CacheName> cache_name(const ggml_tensor* t);

// Whether this root tensor can be held packed: its type and shape and, where the packing is known, the layer.
bool packable(const ggml_tensor* t, const Packing* packing);
// Exact where the packing is known; else at most this.
std::size_t packed_bytes(const ggml_tensor* t, const Packing* packing);

// Keys or values of one layer under one codec. `at`: a cell or a slot.
struct CodedPages {
  bool is_key = false;
  const LayerCodec* codec = nullptr;
  std::uint8_t* bytes = nullptr;

  std::size_t page_bytes() const;
  // Vectors of one token, head after head.
  void store(std::int64_t at, const float* vectors, std::int32_t position, HeadRange heads) const;
  void load(std::int64_t at, float* vectors, std::int32_t position, HeadRange heads) const;
  void store_rows(std::int64_t at, const std::uint8_t* rows) const;
  void load_rows(std::int64_t at, std::uint8_t* rows) const;

  HeadRange all_heads() const { return {0, codec->n_kv_heads()}; }
  int head_dim() const { return is_key ? codec->head_dim_k() : codec->head_dim_v(); }
};

// Keys or values of one layer. No codec: staged; no codec of recent tokens: none are kept apart.
struct CacheTensor {
  CodedPages pages, recent;
  // Tokens that have left their slots for their cells, in order. To be done before anything else with the
  // tensor; each has its own list since graphs may bring some layers only.
  std::vector<RecentTokens::Move> moves;

  // A thread's share of them. Tokens of one page share bytes, but its heads do not: dealt out by both.
  void do_moves(int thread, int n_threads) const;
  void finish_moves();  // all of them, by this thread
};

// Where the token of a cell is.
struct TokenPlace {
  const CodedPages* pages;
  std::int64_t at;
  std::int32_t position;
};

// Context of one KV buffer. Positions are stored once per cell for all its layers.
struct Cache {
  const Packing* packing = nullptr;  // nullptr: staged
  Mapping pages;                     // of all tensors, when packed
  Mapping staged;                    // f16 rows of all tensors, at their `data`; nothing in them when packed
  std::int64_t n_cells = 0;          // per stream
  std::int64_t n_streams = 0;
  std::map<const ggml_tensor*, CacheTensor> tensors;
  std::vector<std::int32_t> positions;        // [n_streams][n_cells], empty where the token is in `recent`
  std::vector<PagePositions> page_positions;  // [n_streams]
  std::vector<std::int64_t> masked_pages;     // taken for regular by regard_mask(), for one graph
  RecentTokens recent;
  const ggml_tensor* restored_first = nullptr;  // since the last batch; it decides where restored tokens go

  bool fits(const Profile& profile) const;  // it has all layers of this cache, in their shapes
  // Encodes what is staged, and from then on everything. Throws std::bad_alloc and then has changed nothing.
  // The profile of the packing must fit, and the packing outlive the cache.
  void pack(const Packing& chosen);
  void clear();

  TokenPlace place_of(const CacheTensor& tensor, std::int64_t cell) const;
  // Finds places for the tokens of a batch, which will be stored in these cells.
  void place_batch(const std::vector<std::int64_t>& cells, const std::int32_t* token_positions);
  // Finds a place for the token whose row of tensor `t` is restored.
  void place_restored(const ggml_tensor* t, std::int64_t cell, std::int32_t position, bool is_recent);

  // Call for cells (counted over all streams) whose positions changed.
  void refresh_pages(std::int64_t first_cell, std::int64_t n);
  void refresh_all_pages();
  PagePositions::Page& page_of(std::int64_t page);  // pages are counted over all streams

 private:
  void note_moves(const std::vector<RecentTokens::Move>& moves);
};

ggml_backend_buffer_type_t buffer_type();
// The cache that owns this tensor, nullptr when it is llama.cpp's own; packed_cache(): and when it is staged.
Cache* owned_cache(const ggml_tensor* t);
Cache* packed_cache(const ggml_tensor* t);

}  // namespace gtq::plugin
