#include "coded_rows.h"

#include "gtq/codec.h"
#include "reference/paper_layer.h"

namespace gtq::cli {
namespace {

void code_by_gtq(const EvalCache& cache, const LayerProfile& layer, const RecordedRows& rows, CodedRows& out) {
  const Rope rope(layer.head_dim_k, layer.rope);
  const std::vector<HeadPlan> plans = plan_layer(layer, cache.budget.tokens);
  std::vector<std::uint8_t> bytes;
  for (int h = 0; h < layer.n_kv_heads; ++h) {
    const KeyCodec key_codec(plans[h], rope);
    const ValueCodec value_codec(plans[h]);
    bytes.resize(std::max(key_codec.row_bytes(), value_codec.row_bytes()));
    for (std::int64_t t = 0; t < rows.n_tokens; ++t) {
      float* key = &out.keys[(t * layer.n_kv_heads + h) * layer.head_dim_k];
      key_codec.encode(key, rows.positions[t], bytes.data());
      key_codec.decode(bytes.data(), rows.positions[t], key);
      float* value = &out.values[(t * layer.n_kv_heads + h) * layer.head_dim_v];
      value_codec.encode(value, bytes.data());
      value_codec.decode(bytes.data(), value);
    }
  }
  out.true_bits_k = true_bits_k(layer.head_dim_k, cache.budget.tokens);
  out.true_bits_v = true_bits_v(layer.head_dim_v, cache.budget.tokens);
}

void code_by_paper(const EvalCache& cache, const LayerProfile& layer, const RecordedRows& rows,
                   CodedRows& out) {
  const reference::PaperLayer codec(cache.paper_recipe(), layer, cache.budget.tokens);
  for (std::int64_t t = 0; t < rows.n_tokens; ++t) {
    codec.simulate_keys(&out.keys[t * layer.n_kv_heads * layer.head_dim_k]);
    codec.simulate_values(&out.values[t * layer.n_kv_heads * layer.head_dim_v]);
  }
  out.true_bits_k = codec.true_bits_k();
  out.true_bits_v = codec.true_bits_v();
}

}  // namespace

CodedRows code_rows(const EvalCache& cache, const LayerProfile& layer, const RecordedRows& rows) {
  CodedRows out;
  out.keys.assign(rows.keys, rows.keys + rows.n_tokens * rows.n_kv_heads * rows.head_dim_k);
  out.values.assign(rows.values, rows.values + rows.n_tokens * rows.n_kv_heads * rows.head_dim_v);
  if (cache.recipe == "gtq") {
    code_by_gtq(cache, layer, rows, out);
  } else {
    code_by_paper(cache, layer, rows, out);
  }
  return out;
}

}  // namespace gtq::cli
