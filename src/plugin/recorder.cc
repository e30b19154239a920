#include "plugin/recorder.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <set>
#include <utility>

#include "gtq/calibration.h"
#include "gtq/error.h"
#include "plugin/ops.h"

namespace gtq::plugin {
namespace {

// [token][head][dim], the tokens of each stream after those of the one before.
std::vector<float> contiguous_queries(const ggml_tensor* q) {
  std::vector<float> rows;
  rows.reserve(ggml_nelements(q));
  for (std::int64_t t = 0; t < q->ne[1] * q->ne[3]; ++t) {
    for (std::int64_t h = 0; h < q->ne[2]; ++h) {
      const auto* x = reinterpret_cast<const float*>(
          static_cast<const char*>(q->data) + t / q->ne[1] * q->nb[3] + t % q->ne[1] * q->nb[1] + h * q->nb[2]);
      rows.insert(rows.end(), x, x + q->ne[0]);
    }
  }
  return rows;
}

float attention_scale(const ggml_tensor* node) {
  float scale = 0;
  std::memcpy(&scale, node->op_params, sizeof scale);
  return scale;
}

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

}  // namespace

void Recorder::record(const ggml_tensor* node) {
  try {
    if (is_cache_store(node)) record_store(node);
    if (is_cache_attention(node)) record_attention(node);
  } catch (const std::bad_alloc&) {
    if (problem_.empty()) problem_ = "no memory to calibrate this model";
  } catch (const std::exception& e) {
    if (problem_.empty()) problem_ = e.what();
  }
}

void Recorder::record_store(const ggml_tensor* node) {
  const auto name = *cache_name(root(node));
  Layer& layer = layers_[name.layer];
  const ggml_tensor* rows = node->src[0];
  const ggml_tensor* rope = rope_of(node);
  if (name.is_key && rope == nullptr)
    throw Error("the keys of this model do not pass through RoPE as gtq needs");
  if (name.is_key) layer.rope = rope_params(rope);
  for (std::int64_t t = 0; t < rows->ne[1]; ++t) {
    const auto* x = reinterpret_cast<const float*>(static_cast<const char*>(rows->data) + t * rows->nb[1]);
    auto& to = name.is_key ? layer.stored.keys : layer.stored.values;
    to.insert(to.end(), x, x + rows->ne[0]);
    if (name.is_key) layer.stored.positions.push_back(static_cast<const std::int32_t*>(rope->src[1]->data)[t]);
  }
}

void Recorder::record_attention(const ggml_tensor* node) {
  const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2];
  RecordedRows rows = {};
  rows.fingerprint = fingerprint_;
  rows.layer = cache_name(root(k))->layer;
  rows.n_q_heads = static_cast<int>(q->ne[2]);
  rows.n_kv_heads = static_cast<int>(k->ne[2]);
  rows.head_dim_k = static_cast<int>(k->ne[0]);
  rows.head_dim_v = static_cast<int>(v->ne[0]);
  rows.sm_scale = attention_scale(node);
  Layer& layer = layers_[rows.layer];
  if (!layer.sums) {
    layer.sums = std::make_unique<LayerCalibrator>(rows.layer, rows.n_q_heads, rows.n_kv_heads, rows.head_dim_k,
                                                   rows.head_dim_v, layer.rope);
  }
  const Stored stored = std::exchange(layer.stored, {});
  const std::vector<float> queries = contiguous_queries(q);
  const auto query_floats = q->ne[2] * q->ne[0], key_floats = k->ne[2] * k->ne[0],
             value_floats = v->ne[2] * v->ne[0];
  const auto n_keys = static_cast<std::int64_t>(stored.positions.size());
  const auto n_values = static_cast<std::int64_t>(stored.values.size()) / value_floats;
  for (std::int64_t t = 0; t < q->ne[1] * q->ne[3]; ++t) layer.sums->add_query(&queries[t * query_floats]);
  for (std::int64_t t = 0; t < n_keys; ++t)
    layer.sums->add_key(&stored.keys[t * key_floats], stored.positions[t]);
  for (std::int64_t t = 0; t < n_values; ++t) layer.sums->add_value(&stored.values[t * value_floats]);

  rows.n_tokens = n_keys;
  rows.queries = queries.data();
  rows.keys = stored.keys.data();
  rows.values = stored.values.data();
  rows.positions = stored.positions.data();
  // A layer that attends the cache of another stores nothing: there is no token to show.
  const bool complete = n_keys == q->ne[1] * q->ne[3] && n_keys == n_values;
  if (complete && listener_ != nullptr) listener_(listener_user_, rows);
}

std::uint64_t graph_fingerprint(ggml_tensor** nodes, int n_nodes) {
  std::set<const void*> seen;
  std::uint64_t sum = 0;
  for (int i = 0; i < n_nodes; ++i) {
    for (const ggml_tensor* t : nodes[i]->src) {
      if (t == nullptr || t->op != GGML_OP_NONE || t->type != GGML_TYPE_F32 || ggml_nrows(t) != 1 ||
          t->buffer == nullptr || t->buffer->usage != GGML_BACKEND_BUFFER_USAGE_WEIGHTS ||
          !seen.insert(t->data).second) {
        continue;
      }
      std::uint64_t hash = 0xcbf29ce484222325ull;
      const auto* bytes = static_cast<const std::uint8_t*>(t->data);
      for (std::size_t b = 0; b < ggml_nbytes(t); ++b) hash = (hash ^ bytes[b]) * 0x100000001b3ull;
      sum += hash;
    }
  }
  return sum;
}

std::int64_t Recorder::tokens() const {
  std::int64_t least = layers_.empty() ? 0 : INT64_MAX;
  for (const auto& [index, layer] : layers_) {
    least = std::min(least, layer.sums ? layer.sums->n_tokens() : 0);
  }
  return least;
}

Profile Recorder::finish(const std::string& model_name, const std::string& text_source) const {
  if (!problem_.empty()) throw Error(problem_);
  Profile profile;
  profile.model_name = model_name;
  profile.text_source = text_source;
  profile.fingerprint = fingerprint_;
  profile.n_tokens = static_cast<int>(tokens());
  for (const auto& [index, layer] : layers_) {
    if (layer.sums) profile.layers.push_back(layer.sums->finish());
  }
  return profile;
}

void record_node(const ggml_tensor* node) { recorder().record(node); }
void record_fingerprint(std::uint64_t fingerprint) { recorder().set_fingerprint(fingerprint); }
void recorder_listen(RecorderListener listener, void* user) { recorder().listen(listener, user); }
std::int64_t recorder_tokens() { return recorder().tokens(); }

bool recorder_finish(const char* path, const char* model_name, const char* text_source, char* error,
                     std::size_t error_size) {
  try {
    write_profile(recorder().finish(model_name, text_source), path);
    return true;
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
    return false;
  }
}

}  // namespace gtq::plugin
