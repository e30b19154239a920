// Attention in double precision over decoded keys and values; semantics of gtq::AttentionCall:
//   logit = softcap(sm_scale * q . k_j) + slope_h * mask[row][j],  weights = softmax(logits, sink)
#pragma once

#include <cstdint>
#include <vector>

namespace gtq::reference {

struct AttentionInput {
  int n_q_heads = 0;
  int n_kv_heads = 0;  // divides n_q_heads; query head h reads KV head h / (n_q_heads / n_kv_heads)
  int head_dim_k = 0;
  int head_dim_v = 0;
  std::int64_t n_rows = 0;
  std::int64_t kv_len = 0;
  std::vector<double> q;            // [n_rows][n_q_heads][head_dim_k]
  std::vector<double> keys;         // [n_kv_heads][kv_len][head_dim_k], after RoPE
  std::vector<double> values;       // [n_kv_heads][kv_len][head_dim_v]
  std::vector<std::uint16_t> mask;  // binary16 [n_rows][kv_len] or empty; -inf excludes the cell
  std::vector<double> sinks;        // [n_q_heads] or empty; adds exp(sink) to the denominator
  double sm_scale = 1;
  double logit_softcap = 0;   // 0 = off
  double alibi_max_bias = 0;  // 0 = off: slope 1
};

// ALiBi (Press et al. 2022) as ggml computes it, also for head counts that are no power of two.
double alibi_slope(double max_bias, int n_heads, int head);

// [kv_len] logits of one query row and head, -inf where the mask excludes the cell.
std::vector<double> attention_logits(const AttentionInput& input, std::int64_t row, int head);

// [n_rows][n_q_heads][head_dim_v]. A row that may attend no cell gives zeros.
std::vector<double> attention(const AttentionInput& input);

}  // namespace gtq::reference
