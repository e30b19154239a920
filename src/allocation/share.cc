// Budget of a model -> budget of each layer. What is left when every layer spends as many whole steps as the
// budget allows goes to the first layers, one step each, since an error there passes through all later ones
// (docs/fidelity.md, "Tried"). A step is a bit more for one quant_group of every key, or for every value.
#include "gtq/allocation.h"

namespace gtq {
namespace {

// Keys, or values, of one layer.
struct Share {
  int steps_per_bit;
  std::int64_t step_bits;  // of one step, per token
  int steps;
};

Share whole_steps(double bits, int steps_per_bit, std::int64_t step_bits) {
  return {steps_per_bit, step_bits, hundredths(bits) * steps_per_bit / 100};
}

void spend_rest(double bits, std::vector<Share>& shares) {
  std::int64_t rest = 0;  // hundredths of bits, per token
  for (const Share& share : shares) {
    rest += (hundredths(bits) * share.steps_per_bit - 100 * share.steps) * share.step_bits;
  }
  for (Share& share : shares) {
    const std::int64_t price = 100 * share.step_bits;
    if (price > rest) continue;
    rest -= price;
    ++share.steps;
  }
}

double bits_of(const Share& share) { return static_cast<double>(share.steps) / share.steps_per_bit; }

}  // namespace

std::vector<Budget> share_budget(const Profile& profile, const Budget& budget) {
  std::vector<Share> keys, values;
  for (const LayerProfile& layer : profile.layers) {
    keys.push_back(whole_steps(budget.k_bits, layer.head_dim_k / kGroupDims, layer.n_kv_heads * kGroupDims));
    values.push_back(whole_steps(budget.v_bits, 1, layer.n_kv_heads * layer.head_dim_v));
  }
  spend_rest(budget.k_bits, keys);
  spend_rest(budget.v_bits, values);
  std::vector<Budget> budgets;
  for (std::size_t i = 0; i < keys.size(); ++i) budgets.push_back({bits_of(keys[i]), bits_of(values[i])});
  return budgets;
}

}  // namespace gtq
