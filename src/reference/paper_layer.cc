#include "reference/paper_layer.h"

#include <fmt/format.h>

#include <cmath>

#include "gtq/error.h"

namespace gtq::reference {
namespace {

constexpr std::uint64_t kKeySeed = 1;
constexpr std::uint64_t kValueSeed = 2;

}  // namespace

void require_paper_budget(const CacheBudget& budget) {
  const auto is_whole = [](double bits) { return hundredths(bits) % 100 == 0; };
  if (is_whole(budget.tokens.k_bits) && is_whole(budget.tokens.v_bits) && budget.recent == 0) return;
  throw Error(
      fmt::format("block-gtq and tq-mse take whole bits, the same for all tokens, for example k3v3, and not {}",
                  to_string(budget)));
}

PaperLayer::PaperLayer(PaperRecipe recipe, const LayerProfile& layer, const Budget& budget)
    : head_dim_k_(layer.head_dim_k),
      values_(layer.head_dim_v, static_cast<int>(std::lround(budget.v_bits)), kValueSeed) {
  const int k_bits = static_cast<int>(std::lround(budget.k_bits));
  for (int head = 0; head < layer.n_kv_heads; ++head) {
    if (recipe == PaperRecipe::kBlockGtq) {
      keys_.emplace_back(BlockGtq(layer, head, k_bits));
    } else {
      keys_.emplace_back(TqMse(head_dim_k_, k_bits, kKeySeed));
    }
  }
}

void PaperLayer::simulate_keys(float* keys) const {
  for (const auto& head : keys_) {
    std::visit([keys](const auto& codec) { codec.simulate(keys, keys); }, head);
    keys += head_dim_k_;
  }
}

void PaperLayer::simulate_values(float* values) const {
  for (std::size_t head = 0; head < keys_.size(); ++head) {
    values_.simulate(values, values);
    values += values_.dim();
  }
}

double PaperLayer::true_bits_k() const {
  double bits = 0;
  for (const auto& head : keys_) bits += std::visit([](const auto& codec) { return codec.true_bits(); }, head);
  return bits / static_cast<double>(keys_.size());
}

}  // namespace gtq::reference
