// How far coded keys and values move the attention of one layer, on rows that the recorder saw.
#pragma once

#include <cstdint>
#include <vector>

#include "gtq/rope.h"
#include "plugin/recorder_api.h"
#include "reference/attention.h"

namespace gtq::cli {

// Distances between keys and queries at which logits are compared (arXiv 2606.24033): 50 from -1024 to 1024.
std::vector<std::int64_t> relative_offsets();

// The rows must be one sequence in order and outlive the meter. Immutable and safe to use from several threads.
// Coded rows have the shapes of RecordedRows::keys and values.
class AttentionMeter {
 public:
  // At most max_query_rows tokens, spread evenly over the sequence, ask; all before them answer.
  AttentionMeter(const RecordedRows& rows, const RopeParams& rope, int max_query_rows);

  // The paper's figure: mean |q . R_d (k - k_coded)| of KV head 0, without 1/sqrt(d). Query and key error are
  // turned back to position 0 and paired at random, the key of every token once per distance d with the
  // queries of all heads that read KV head 0.
  double logit_mae(const float* coded_keys) const;

  // Mean over query rows and heads of the KL divergence of the attention weights, causal and scaled as the
  // model does it.
  double key_divergence(const float* coded_keys) const;

  // sum |o - o_coded|^2 / sum |o|^2 over query rows and heads.
  double output_error(const float* coded_keys, const float* coded_values) const;

 private:
  reference::AttentionInput input_with(const float* keys, const float* values) const;

  const RecordedRows& rows_;
  Rope rope_;
  std::vector<std::int64_t> query_tokens_;
  std::vector<float> queries_;  // of KV head 0, before RoPE: [token][head of the group][head_dim_k]
  reference::AttentionInput input_;
  std::vector<std::vector<double>> logits_;  // [query row * n_q_heads + head][kv_len]
  std::vector<double> outputs_;
};

}  // namespace gtq::cli
