#include "reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "reference/half.h"

namespace gtq::reference {
namespace {

constexpr double kExcluded = -std::numeric_limits<double>::infinity();

}  // namespace

double alibi_slope(double max_bias, int n_heads, int head) {
  if (max_bias <= 0) return 1;
  const double n2 = std::exp2(std::floor(std::log2(n_heads)));
  if (head < n2) return std::pow(std::exp2(-max_bias / n2), head + 1);
  return std::pow(std::exp2(-max_bias / 2 / n2), 2 * (head - n2) + 1);
}

std::vector<double> attention_logits(const AttentionInput& input, std::int64_t row, int head) {
  const int kv_head = head / (input.n_q_heads / input.n_kv_heads);
  const double* q = &input.q[(row * input.n_q_heads + head) * input.head_dim_k];
  const double slope = alibi_slope(input.alibi_max_bias, input.n_q_heads, head);
  std::vector<double> logits(input.kv_len);
  for (std::int64_t j = 0; j < input.kv_len; ++j) {
    const double bias = input.mask.empty() ? 0 : half_to_double(input.mask[row * input.kv_len + j]);
    logits[j] = kExcluded;
    if (bias == kExcluded) continue;
    const double* key = &input.keys[(kv_head * input.kv_len + j) * input.head_dim_k];
    double logit = 0;
    for (int i = 0; i < input.head_dim_k; ++i) logit += q[i] * key[i];
    logit *= input.sm_scale;
    if (input.logit_softcap > 0) logit = input.logit_softcap * std::tanh(logit / input.logit_softcap);
    logits[j] = logit + slope * bias;
  }
  return logits;
}

std::vector<double> attention(const AttentionInput& input) {
  std::vector<double> out(input.n_rows * input.n_q_heads * input.head_dim_v, 0.0);
  for (std::int64_t row = 0; row < input.n_rows; ++row) {
    for (int head = 0; head < input.n_q_heads; ++head) {
      const std::vector<double> logits = attention_logits(input, row, head);
      const double largest = *std::max_element(logits.begin(), logits.end());
      if (largest == kExcluded) continue;
      const int kv_head = head / (input.n_q_heads / input.n_kv_heads);
      const double top = input.sinks.empty() ? largest : std::max(largest, input.sinks[head]);
      double* sum = &out[(row * input.n_q_heads + head) * input.head_dim_v];
      double denominator = input.sinks.empty() ? 0 : std::exp(input.sinks[head] - top);
      for (std::int64_t j = 0; j < input.kv_len; ++j) {
        const double weight = std::exp(logits[j] - top);
        const double* value = &input.values[(kv_head * input.kv_len + j) * input.head_dim_v];
        denominator += weight;
        for (int i = 0; i < input.head_dim_v; ++i) sum[i] += weight * value[i];
      }
      for (int i = 0; i < input.head_dim_v; ++i) sum[i] /= denominator;
    }
  }
  return out;
}

}  // namespace gtq::reference
