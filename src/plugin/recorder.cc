#include "plugin/recorder.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <set>

#include "gtq/calibration.h"
#include "gtq/error.h"
#include "plugin/ops.h"

namespace gtq::plugin {
namespace {

// A layer is known whole only at its attention node, after its first keys and values: they wait here.
struct Layer {
  std::vector<std::vector<float>> keys, values;
  std::vector<std::int32_t> positions;
  RopeParams rope;
  std::unique_ptr<LayerCalibrator> sums;
};

struct Recorder {
  std::map<int, Layer> layers;
  std::uint64_t fingerprint = 0;
  std::string problem;
};

Recorder& recorder() {
  static Recorder instance;
  return instance;
}

void record_store(const ggml_tensor* node) {
  const auto name = *cache_name(root(node));
  Layer& layer = recorder().layers[name.layer];
  const ggml_tensor* rows = node->src[0];
  const ggml_tensor* rope = rope_of(node);
  if (name.is_key && rope == nullptr)
    throw Error("the keys of this model do not pass through RoPE as gtq needs");
  if (name.is_key) layer.rope = rope_params(rope);
  for (std::int64_t t = 0; t < rows->ne[1]; ++t) {
    const auto* x = reinterpret_cast<const float*>(static_cast<const char*>(rows->data) + t * rows->nb[1]);
    (name.is_key ? layer.keys : layer.values).emplace_back(x, x + rows->ne[0]);
    if (name.is_key) layer.positions.push_back(static_cast<const std::int32_t*>(rope->src[1]->data)[t]);
  }
}

void record_attention(const ggml_tensor* node) {
  const int index = cache_name(root(node->src[1]))->layer;
  Layer& layer = recorder().layers[index];
  const ggml_tensor *q = node->src[0], *k = node->src[1], *v = node->src[2];
  if (!layer.sums) {
    layer.sums =
        std::make_unique<LayerCalibrator>(index, static_cast<int>(q->ne[2]), static_cast<int>(k->ne[2]),
                                          static_cast<int>(k->ne[0]), static_cast<int>(v->ne[0]), layer.rope);
  }
  std::vector<float> row(q->ne[2] * q->ne[0]);
  for (std::int64_t t = 0; t < q->ne[1]; ++t) {
    for (std::int64_t h = 0; h < q->ne[2]; ++h) {
      const auto* x =
          reinterpret_cast<const float*>(static_cast<const char*>(q->data) + t * q->nb[1] + h * q->nb[2]);
      std::copy_n(x, q->ne[0], &row[h * q->ne[0]]);
    }
    layer.sums->add_query(row.data());
  }
  for (std::size_t t = 0; t < layer.keys.size(); ++t)
    layer.sums->add_key(layer.keys[t].data(), layer.positions[t]);
  for (const auto& value : layer.values) layer.sums->add_value(value.data());
  layer.keys.clear();
  layer.values.clear();
  layer.positions.clear();
}

}  // namespace

void record_node(const ggml_tensor* node) {
  try {
    if (is_cache_store(node)) record_store(node);
    if (is_cache_attention(node)) record_attention(node);
  } catch (const std::exception& e) {
    if (recorder().problem.empty()) recorder().problem = e.what();
  }
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

void record_fingerprint(std::uint64_t fingerprint) { recorder().fingerprint = fingerprint; }

std::int64_t recorder_tokens() {
  std::int64_t least = recorder().layers.empty() ? 0 : INT64_MAX;
  for (const auto& [index, layer] : recorder().layers) {
    least = std::min(least, layer.sums ? layer.sums->n_tokens() : 0);
  }
  return least;
}

bool recorder_finish(const char* path, const char* model_name, const char* text_source, char* error,
                     std::size_t error_size) {
  try {
    if (!recorder().problem.empty()) throw Error(recorder().problem);
    Profile profile;
    profile.model_name = model_name;
    profile.text_source = text_source;
    profile.fingerprint = recorder().fingerprint;
    profile.n_tokens = static_cast<int>(recorder_tokens());
    for (const auto& [index, layer] : recorder().layers) {
      if (layer.sums) profile.layers.push_back(layer.sums->finish());
    }
    write_profile(profile, path);
    return true;
  } catch (const std::exception& e) {
    std::snprintf(error, error_size, "%s", e.what());
    return false;
  }
}

}  // namespace gtq::plugin
