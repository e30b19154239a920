// The cache's ops, each run by part `thread` of `n_threads` of ggml's own threads.
#pragma once

#include "gtq/attention.h"
#include "plugin/cache.h"

namespace gtq::plugin {

// Nodes that llama.cpp aims at the cache, found by what they touch.
bool is_cache_store(const ggml_tensor* node);  // SET_ROWS on a tensor named as a key or value cache
bool is_cache_attention(const ggml_tensor* node);
bool is_key_shift(const ggml_tensor* node);  // in-place ROPE on a cache of ours: llama.cpp's context shift

// The ROPE node that made the rows of this store, nullptr for values.
const ggml_tensor* rope_of(const ggml_tensor* store);
RopeParams rope_params(const ggml_tensor* rope);

void store_rows(const ggml_tensor* node, SpinBarrier& barrier, int thread, int n_threads);
std::size_t attention_workspace(const ggml_tensor* node, int n_threads);
void run_attention(const ggml_tensor* node, void* workspace, SpinBarrier& barrier, int thread, int n_threads);
// Decodes, rotates on and encodes packed keys; their positions are moved by finish_shift() (positions.h).
void shift_keys(const ggml_tensor* node, SpinBarrier& barrier, int thread, int n_threads);

}  // namespace gtq::plugin
