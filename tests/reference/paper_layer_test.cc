#include "reference/paper_layer.h"

#include <gtest/gtest.h>

#include "gtq/error.h"
#include "reference/haar.h"

namespace gtq::reference {
namespace {

// Two KV heads with different energies, so that block-gtq treats them differently.
LayerProfile two_heads() {
  LayerProfile layer;
  layer.n_q_heads = 4;
  layer.n_kv_heads = 2;
  layer.head_dim_k = 64;
  layer.head_dim_v = 32;
  layer.rope.n_rot = 64;
  layer.energy_q.assign(64, 1.0f);
  layer.energy_k.assign(64, 1.0f);
  for (int i = 0; i < 8; ++i) layer.energy_k[32 + i] = 100;  // of head 1
  return layer;
}

std::vector<float> random_row(int n) {
  const std::vector<double> numbers = gaussian_numbers(n, 5);
  return {numbers.begin(), numbers.end()};
}

TEST(PaperLayer, EveryKvHeadHasItsOwnKeys) {
  const LayerProfile layer = two_heads();
  const PaperLayer simulated(PaperRecipe::kBlockGtq, layer, {3, 2});
  std::vector<float> keys = random_row(128), expected = keys;
  simulated.simulate_keys(keys.data());
  const BlockGtq first(layer, 0, 3), second(layer, 1, 3);
  first.simulate(expected.data(), expected.data());
  second.simulate(&expected[64], &expected[64]);
  EXPECT_EQ(keys, expected);
  EXPECT_DOUBLE_EQ(simulated.true_bits_k(), (first.true_bits() + second.true_bits()) / 2);
  EXPECT_GT(second.true_bits(), first.true_bits());
}

TEST(PaperLayer, TakesWholeBitsOnly) {
  EXPECT_NO_THROW(require_paper_budget({{3, 4}}));
  EXPECT_THROW(require_paper_budget({{3.5, 4}}), Error);
  EXPECT_THROW(require_paper_budget({{3, 4.01}}), Error);
  EXPECT_THROW(require_paper_budget({{3, 4}, 64}), Error);
}

TEST(PaperLayer, ValuesAreTqMse) {
  for (const PaperRecipe recipe : {PaperRecipe::kTqMse, PaperRecipe::kBlockGtq}) {
    const PaperLayer simulated(recipe, two_heads(), {3, 2});
    EXPECT_DOUBLE_EQ(simulated.true_bits_v(), 2 + 16.0 / 32);
    const std::vector<float> values = random_row(64);
    std::vector<float> coded = values;
    simulated.simulate_values(coded.data());
    for (int head = 0; head < 2; ++head) {  // within the error of 2 bits, and not untouched
      double error = 0, energy = 0;
      for (int i = head * 32; i < (head + 1) * 32; ++i) {
        error += (coded[i] - values[i]) * (coded[i] - values[i]);
        energy += values[i] * values[i];
      }
      EXPECT_GT(error / energy, 0.03) << head;
      EXPECT_LT(error / energy, 0.3) << head;
    }
  }
}

TEST(PaperLayer, TqMseKeysIgnoreEnergies) {
  const PaperLayer simulated(PaperRecipe::kTqMse, two_heads(), {3, 2});
  EXPECT_DOUBLE_EQ(simulated.true_bits_k(), 3 + 16.0 / 64);
  std::vector<float> row = random_row(64), keys = row;
  keys.insert(keys.end(), row.begin(), row.end());
  simulated.simulate_keys(keys.data());
  EXPECT_TRUE(std::equal(keys.begin(), keys.begin() + 64, keys.begin() + 64));
  EXPECT_NE(std::vector<float>(keys.begin(), keys.begin() + 64), row);
}

}  // namespace
}  // namespace gtq::reference
