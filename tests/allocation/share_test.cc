#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "gtq/allocation.h"
#include "gtq/error.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

using testing::Random;
using testing::random_layer;

// As of a model with sliding windows: layers of two shapes.
Profile mixed_profile() {
  Random random(16);
  Profile profile;
  for (int i = 0; i < 10; ++i) {
    profile.layers.push_back(random_layer(
        i, i % 3 == 2 ? testing::Shape{4, 1, 128, 64, 128} : testing::Shape{4, 2, 64, 48, 64}, random));
  }
  return profile;
}

struct Spent {
  double k_bits = 0, v_bits = 0, n_keys = 0, n_values = 0;
};

Spent spent(const Profile& profile, const std::vector<Budget>& budgets) {
  Spent sum;
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    for (const HeadPlan& plan : plan_layer(layer, budgets[i])) {
      for (const std::uint8_t width : plan.widths) sum.k_bits += kGroupDims * width;
      sum.v_bits += layer.head_dim_v * plan.v_width;
    }
    sum.n_keys += layer.n_kv_heads * layer.head_dim_k;
    sum.n_values += layer.n_kv_heads * layer.head_dim_v;
  }
  return sum;
}

TEST(ShareBudget, GivesEveryLayerTheSameWhereItCan) {
  const Profile profile = mixed_profile();
  for (const Budget budget :
       {Budget{1, 1}, Budget{3, 3}, Budget{4, 2}, Budget{3.25, 3}, Budget{2.5, 6}, Budget{6, 6}}) {
    for (const Budget& layer : share_budget(profile, budget)) EXPECT_EQ(to_string(layer), to_string(budget));
  }
}

TEST(ShareBudget, MeetsEveryBudgetAndNeverExceedsIt) {
  const Profile profile = mixed_profile();
  for (int k = 100; k <= 600; k += 7) {
    const Budget budget{k / 100.0, (700 - k) / 100.0};
    SCOPED_TRACE(to_string(budget));
    const Spent sum = spent(profile, share_budget(profile, budget));
    EXPECT_LE(sum.k_bits, budget.k_bits * sum.n_keys + 1e-6);
    EXPECT_GT(sum.k_bits, budget.k_bits * sum.n_keys - 2 * kGroupDims);
    EXPECT_LE(sum.v_bits, budget.v_bits * sum.n_values + 1e-6);
    EXPECT_GT(sum.v_bits, budget.v_bits * sum.n_values - 2 * 48);
  }
}

TEST(ShareBudget, GivesTheFirstLayersMore) {
  Random random(17);
  Profile profile;
  for (int i = 0; i < 10; ++i) profile.layers.push_back(random_layer(i, {4, 2, 64, 64, 64}, random));
  const std::vector<Budget> budgets = share_budget(profile, {3.45, 3.3});
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    EXPECT_EQ(budgets[i].k_bits, i < 8 ? 3.5 : 3.25) << i;
    EXPECT_EQ(budgets[i].v_bits, i < 3 ? 4 : 3) << i;
  }
}

}  // namespace
}  // namespace gtq
