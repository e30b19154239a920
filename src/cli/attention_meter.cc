#include "attention_meter.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "divergence.h"

namespace gtq::cli {
namespace {

constexpr int kOffsets = 50;
constexpr int kMaxOffset = 1024;
constexpr std::uint16_t kHalfMinusInfinity = 0xFC00;

// [token][head][dim] floats to [head][token][dim] doubles.
std::vector<double> by_head(const float* rows, std::int64_t n_tokens, int n_heads, int head_dim) {
  std::vector<double> out;
  out.reserve(static_cast<std::size_t>(n_tokens * n_heads * head_dim));
  for (int h = 0; h < n_heads; ++h) {
    for (std::int64_t t = 0; t < n_tokens; ++t) {
      const float* row = rows + (t * n_heads + h) * head_dim;
      out.insert(out.end(), row, row + head_dim);
    }
  }
  return out;
}

std::vector<std::int64_t> spread_tokens(std::int64_t n_tokens, std::int64_t n) {
  n = std::min(n, n_tokens);
  std::vector<std::int64_t> tokens;
  for (std::int64_t i = 1; i <= n; ++i) tokens.push_back(i * n_tokens / n - 1);
  return tokens;
}

// A query sees its own key and those before it.
std::vector<std::uint16_t> causal_mask(const std::vector<std::int64_t>& tokens, std::int64_t kv_len) {
  std::vector<std::uint16_t> mask;
  for (const std::int64_t token : tokens) {
    for (std::int64_t j = 0; j < kv_len; ++j) mask.push_back(j > token ? kHalfMinusInfinity : 0);
  }
  return mask;
}

}  // namespace

std::vector<std::int64_t> relative_offsets() {
  std::vector<std::int64_t> offsets;
  for (int i = 0; i < kOffsets; ++i) offsets.push_back(-kMaxOffset + 2 * kMaxOffset * i / (kOffsets - 1));
  return offsets;
}

AttentionMeter::AttentionMeter(const RecordedRows& rows, const RopeParams& rope, int max_query_rows)
    : rows_(rows), rope_(rows.head_dim_k, rope), query_tokens_(spread_tokens(rows.n_tokens, max_query_rows)) {
  const int head_dim = rows.head_dim_k, group = rows.n_q_heads / rows.n_kv_heads;
  queries_.resize(static_cast<std::size_t>(rows.n_tokens * group * head_dim));
  for (std::int64_t t = 0; t < rows.n_tokens; ++t) {
    for (int h = 0; h < group; ++h) {
      rope_.rotate(rows.queries + (t * rows.n_q_heads + h) * head_dim, -rows.positions[t],
                   &queries_[(t * group + h) * head_dim]);
    }
  }
  input_.n_q_heads = rows.n_q_heads;
  input_.n_kv_heads = rows.n_kv_heads;
  input_.head_dim_k = head_dim;
  input_.head_dim_v = rows.head_dim_v;
  input_.n_rows = static_cast<std::int64_t>(query_tokens_.size());
  input_.kv_len = rows.n_tokens;
  input_.sm_scale = rows.sm_scale;
  input_.mask = causal_mask(query_tokens_, rows.n_tokens);
  const std::int64_t query_floats = rows.n_q_heads * head_dim;
  for (const std::int64_t token : query_tokens_) {
    const float* row = rows.queries + token * query_floats;
    input_.q.insert(input_.q.end(), row, row + query_floats);
  }
  const reference::AttentionInput exact = input_with(rows.keys, rows.values);
  for (std::int64_t row = 0; row < exact.n_rows; ++row) {
    for (int h = 0; h < exact.n_q_heads; ++h) logits_.push_back(reference::attention_logits(exact, row, h));
  }
  outputs_ = reference::attention(exact);
}

reference::AttentionInput AttentionMeter::input_with(const float* keys, const float* values) const {
  reference::AttentionInput input = input_;
  input.keys = by_head(keys, rows_.n_tokens, rows_.n_kv_heads, rows_.head_dim_k);
  if (values != nullptr) input.values = by_head(values, rows_.n_tokens, rows_.n_kv_heads, rows_.head_dim_v);
  return input;
}

double AttentionMeter::logit_mae(const float* coded_keys) const {
  const int head_dim = rows_.head_dim_k, group = rows_.n_q_heads / rows_.n_kv_heads;
  const std::int64_t key_floats = rows_.n_kv_heads * head_dim;
  std::vector<float> errors(static_cast<std::size_t>(rows_.n_tokens * head_dim)), turned(head_dim);
  for (std::int64_t t = 0; t < rows_.n_tokens; ++t) {
    float* error = &errors[t * head_dim];
    for (int i = 0; i < head_dim; ++i)
      error[i] = rows_.keys[t * key_floats + i] - coded_keys[t * key_floats + i];
    rope_.rotate(error, -rows_.positions[t], error);
  }
  std::mt19937 random(1);  // the same pairs for every recipe
  std::vector<float> turn(static_cast<std::size_t>(head_dim));
  double sum = 0;
  for (const std::int64_t offset : relative_offsets()) {
    rope_.make_turn(offset, turn.data());
    for (std::int64_t t = 0; t < rows_.n_tokens; ++t) {
      rope_.apply_turn(turn.data(), &errors[t * head_dim], turned.data());
      const float* query = &queries_[random() % rows_.n_tokens * group * head_dim];
      for (int h = 0; h < group; ++h, query += head_dim) {
        double logit = 0;
        for (int i = 0; i < head_dim; ++i) logit += static_cast<double>(query[i]) * turned[i];
        sum += std::abs(logit);
      }
    }
  }
  return sum / (kOffsets * static_cast<double>(rows_.n_tokens) * group);
}

double AttentionMeter::key_divergence(const float* coded_keys) const {
  const reference::AttentionInput coded = input_with(coded_keys, nullptr);
  double sum = 0;
  for (std::int64_t row = 0; row < coded.n_rows; ++row) {
    for (int h = 0; h < coded.n_q_heads; ++h) {
      sum += softmax_divergence<double>(logits_[row * coded.n_q_heads + h],
                                        reference::attention_logits(coded, row, h));
    }
  }
  return sum / static_cast<double>(logits_.size());
}

double AttentionMeter::output_error(const float* coded_keys, const float* coded_values) const {
  const std::vector<double> coded = reference::attention(input_with(coded_keys, coded_values));
  double error = 0, energy = 0;
  for (std::size_t i = 0; i < coded.size(); ++i) {
    error += (outputs_[i] - coded[i]) * (outputs_[i] - coded[i]);
    energy += outputs_[i] * outputs_[i];
  }
  return error / energy;
}

}  // namespace gtq::cli
