// Reading ggml tensors of a graph.
#pragma once

#include <cstdint>

#include "ggml.h"
#include "plugin/cache.h"

namespace gtq::plugin {

template <typename T>
const T* at(const ggml_tensor* t, std::int64_t i1, std::int64_t i2 = 0, std::int64_t i3 = 0) {
  return reinterpret_cast<const T*>(static_cast<const char*>(t->data) + i1 * t->nb[1] + i2 * t->nb[2] +
                                    i3 * t->nb[3]);
}

// Where row i of a SET_ROWS goes.
inline std::int64_t cell_of(const ggml_tensor* indices, std::int64_t i) {
  const char* p = static_cast<const char*>(indices->data) + i * indices->nb[0];
  return indices->type == GGML_TYPE_I64 ? *reinterpret_cast<const std::int64_t*>(p)
                                        : *reinterpret_cast<const std::int32_t*>(p);
}

// First stream of the cache that this attention reads; it goes on with the next ones.
inline std::int64_t first_stream(const ggml_tensor* attention) {
  const ggml_tensor* k = attention->src[1];
  return static_cast<std::int64_t>(k->view_offs / root(k)->nb[2]);
}

}  // namespace gtq::plugin
