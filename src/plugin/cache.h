// The packed KV cache behind llama.cpp's cache tensors.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "gtq/attention.h"

namespace gtq::plugin {

inline const ggml_tensor* root(const ggml_tensor* t) { return t->view_src != nullptr ? t->view_src : t; }

// A tensor named cache_k_l<layer> or cache_v_l<layer>, and nothing else.
struct CacheName {
  bool is_key;
  int layer;
};
std::optional<CacheName> cache_name(const ggml_tensor* t);

// Codec that can hold this root tensor packed; nullptr when it cannot (other type, shape or no profile layer).
const LayerCodec* packable(const ggml_tensor* t);
std::size_t packed_bytes(const ggml_tensor* t, const LayerCodec& codec);

struct PackedTensor {
  bool is_key;
  const LayerCodec* codec;
};

// Context of one KV buffer. Positions are stored once per cell for all its layers.
struct PackedCache {
  std::uint8_t* memory = nullptr;
  std::size_t size = 0;
  std::int64_t n_cells = 0;  // per stream
  std::int64_t n_streams = 0;
  std::map<const ggml_tensor*, PackedTensor> tensors;
  std::vector<std::int32_t> positions;        // [n_streams][n_cells]
  std::vector<PagePositions> page_positions;  // [n_streams]
  std::vector<std::int64_t> masked_pages;     // taken for regular by regard_mask(), for one graph

  // Call for cells (counted over all streams) whose positions changed.
  void refresh_pages(std::int64_t first_cell, std::int64_t n);
  void refresh_all_pages();
  PagePositions::Page& page_of(std::int64_t page);  // pages are counted over all streams
};

ggml_backend_buffer_type_t buffer_type();
// The cache that owns this tensor, nullptr when it is not packed.
PackedCache* packed_cache(const ggml_tensor* t);

}  // namespace gtq::plugin
