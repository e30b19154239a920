// The paper's recipes for all KV heads of a layer: keys by the recipe, values by tq-mse, as published.
#pragma once

#include <variant>
#include <vector>

#include "gtq/allocation.h"
#include "reference/paper.h"

namespace gtq::reference {

enum class PaperRecipe { kTqMse, kBlockGtq };

// Throws Error for fractions of bits and recent tokens apart: the paper has one number of bits for all heads
// and tokens.
void require_paper_budget(const CacheBudget& budget);

class PaperLayer {
 public:
  // The budget is in whole bits.
  PaperLayer(PaperRecipe recipe, const LayerProfile& layer, const Budget& budget);

  // One token, in place: [n_kv_heads][head_dim_k] after RoPE, [n_kv_heads][head_dim_v].
  void simulate_keys(float* keys) const;
  void simulate_values(float* values) const;

  // Per value, norms included; the mean over the KV heads.
  double true_bits_k() const;
  double true_bits_v() const { return values_.true_bits(); }

 private:
  int head_dim_k_;
  std::vector<std::variant<TqMse, BlockGtq>> keys_;  // [n_kv_heads]
  TqMse values_;
};

}  // namespace gtq::reference
