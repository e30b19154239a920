#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "gtq/allocation.h"
#include "gtq/error.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

using testing::Random;
using testing::random_layer;

// Energies of one head, as doubles and with the plan's choice of residual.
struct Energies {
  std::vector<double> q, k, e, residual;

  Energies(const LayerProfile& layer, int head, const HeadPlan& plan) {
    const int n = layer.head_dim_k / 2;
    const auto copy = [&](const std::vector<float>& all) {
      return std::vector<double>(all.begin() + head * n, all.begin() + (head + 1) * n);
    };
    q = copy(layer.energy_q);
    k = copy(layer.energy_k);
    e = copy(layer.energy_e);
    for (int i = 0; i < n; ++i) residual.push_back(plan.centred[i] != 0 ? e[i] : k[i]);
  }
};

int block_of(const Rope& rope, int dim) {
  for (int i = 0; i < rope.n_blocks(); ++i) {
    if (rope.first(i) == dim || rope.second(i) == dim) return i;
  }
  return -1;
}

void expect_slots(const HeadPlan& plan, const Rope& rope) {
  ASSERT_EQ(plan.dims.size(), static_cast<std::size_t>(plan.head_dim_k));
  std::vector<int> seen(plan.dims.begin(), plan.dims.end());
  std::ranges::sort(seen);
  for (int d = 0; d < plan.head_dim_k; ++d) ASSERT_EQ(seen[d], d);
  for (std::size_t slot = 0; slot < plan.dims.size(); slot += 2) {
    const int block = block_of(rope, plan.dims[slot]);
    EXPECT_EQ(plan.dims[slot], rope.first(block));
    EXPECT_EQ(plan.dims[slot + 1], rope.second(block));
    EXPECT_EQ(plan.scale[slot], plan.scale[slot + 1]);
    EXPECT_EQ(plan.weight[slot], plan.weight[slot + 1]);
  }
}

void expect_widths(const HeadPlan& plan, const Budget& budget) {
  const int n_groups = plan.head_dim_k / kGroupDims;
  ASSERT_EQ(plan.widths.size(), static_cast<std::size_t>(n_groups));
  EXPECT_EQ(std::accumulate(plan.widths.begin(), plan.widths.end(), 0), budget.k_bits * n_groups);
  EXPECT_TRUE(std::ranges::is_sorted(plan.widths));
  EXPECT_GE(plan.widths.front(), kMinWidth);
  EXPECT_LE(plan.widths.back(), kMaxWidth);
  EXPECT_EQ(plan.v_width, budget.v_bits);
}

// Scaled residuals have unit energy per dim in every group, in the ratio a = (E_q/E_e)^(1/4); groups take the
// rope_blocks in order of E_q E_e.
void expect_scales(const HeadPlan& plan, const Rope& rope, const Energies& energies) {
  double largest_before = 0;
  for (std::size_t group = 0; group < plan.dims.size(); group += kGroupDims) {
    double energy = 0, least = std::numeric_limits<double>::infinity(), largest = 0;
    const int leader = block_of(rope, plan.dims[group]);
    for (std::size_t slot = group; slot < group + kGroupDims; slot += 2) {
      const int i = block_of(rope, plan.dims[slot]);
      energy += plan.scale[slot] * plan.scale[slot] * energies.residual[i] / kGroupDims;
      const double product = energies.q[i] * energies.residual[i];
      least = std::min(least, product);
      largest = std::max(largest, product);
      const double ratio =
          energies.q[i] / energies.residual[i] * energies.residual[leader] / energies.q[leader];
      EXPECT_NEAR(std::pow(plan.scale[slot] / plan.scale[group], 4) / ratio, 1.0, 1e-5);
      EXPECT_FLOAT_EQ(plan.weight[slot], static_cast<float>(energies.q[i]));
    }
    EXPECT_NEAR(energy, 1.0, 1e-5);
    EXPECT_GE(least, largest_before);
    largest_before = largest;
  }
}

void expect_centring(const HeadPlan& plan, const Rope& rope, const LayerProfile& layer, int head,
                     const Energies& energies) {
  ASSERT_EQ(plan.centred.size(), static_cast<std::size_t>(rope.n_blocks()));
  ASSERT_EQ(plan.mean_keys.size(), static_cast<std::size_t>(kMeans * plan.head_dim_k));
  int n_centred = 0, n_paying = 0;
  double least_in = 2, most_out = -2;
  for (int i = 0; i < rope.n_blocks(); ++i) {
    const double gain = 1 - energies.e[i] / energies.k[i];
    n_paying += energies.e[i] <= 0.75 * energies.k[i];
    n_centred += plan.centred[i];
    (plan.centred[i] != 0 ? least_in : most_out) =
        plan.centred[i] != 0 ? std::min(least_in, gain) : std::max(most_out, gain);
    for (int c = 0; c < kMeans; ++c) {
      for (const int dim : {rope.first(i), rope.second(i)}) {
        const float mean = layer.mean_keys[(c * layer.n_kv_heads + head) * layer.head_dim_k + dim];
        EXPECT_EQ(plan.mean_keys[c * layer.head_dim_k + dim], plan.centred[i] != 0 ? mean : 0.0f);
      }
    }
  }
  EXPECT_EQ(n_centred % 8, 0);
  EXPECT_EQ(n_centred, (n_paying + 7) / 8 * 8);
  EXPECT_GE(least_in, most_out);
}

TEST(PlanLayer, HoldsItsInvariants) {
  Random random(11);
  for (const int head_dim : {16, 48, 64, 80, 96, 128, 256}) {
    for (const int n_rot : {head_dim, head_dim / 2, 10, 0}) {
      for (const int n_kv_heads : {1, 3}) {
        const int index = static_cast<int>(random.next() % 50);
        const LayerProfile layer =
            random_layer(index, {2 * n_kv_heads, n_kv_heads, head_dim, 64, n_rot}, random);
        const Rope rope(head_dim, layer.rope);
        const Budget budget{1.0 + static_cast<int>(random.next() % 6),
                            1.0 + static_cast<int>(random.next() % 6)};
        SCOPED_TRACE(::testing::Message() << head_dim << " " << n_rot << " " << to_string(budget));
        const std::vector<HeadPlan> plans = plan_layer(layer, budget);
        ASSERT_EQ(plans.size(), static_cast<std::size_t>(n_kv_heads));
        for (int head = 0; head < n_kv_heads; ++head) {
          const HeadPlan& plan = plans[head];
          const Energies energies(layer, head, plan);
          EXPECT_EQ(plan.head_dim_k, head_dim);
          EXPECT_EQ(plan.head_dim_v, 64);
          EXPECT_EQ(plan.v_rms, layer.rms_v[head]);
          expect_slots(plan, rope);
          expect_widths(plan, budget);
          expect_scales(plan, rope, energies);
          expect_centring(plan, rope, layer, head, energies);
        }
      }
    }
  }
}

TEST(PlanLayer, GivesMoreBitsWhereErrorsCostMore) {
  Random random(12);
  LayerProfile layer = random_layer(0, {1, 1, 32, 32, 32}, random);
  for (int i = 0; i < 16; ++i) {
    layer.energy_q[i] = i % 2 == 0 ? 1000.0f : 1.0f;
    layer.energy_k[i] = layer.energy_e[i] = 1.0f;
  }
  const HeadPlan plan = plan_layer(layer, {3, 4}).front();
  EXPECT_LT(plan.widths[0], plan.widths[1]);
  for (int slot = 0; slot < 16; ++slot) EXPECT_EQ(plan.dims[slot] / 2 % 2, 1) << slot;  // the cheap ones first
  for (const std::uint8_t centred : plan.centred) EXPECT_EQ(centred, 0);
}

TEST(PlanLayer, IsDeterministicOnTies) {
  Random random(13);
  LayerProfile layer = random_layer(0, {1, 1, 64, 64, 64}, random);
  for (auto* energies : {&layer.energy_q, &layer.energy_k, &layer.energy_e}) std::ranges::fill(*energies, 2.0f);
  const HeadPlan plan = plan_layer(layer, {4, 4}).front();
  for (int slot = 0; slot < 64; ++slot) EXPECT_EQ(plan.dims[slot], slot);
  EXPECT_EQ(plan.widths, (std::vector<std::uint8_t>{4, 4, 4, 4}));
}

TEST(PlanLayer, StaysFiniteOnExtremeEnergies) {
  const float largest = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  const std::vector<float> values = {0.0f, tiny, 1e-20f, 1.0f, 1e20f, largest};
  for (const float q : values) {
    for (const float k : values) {
      for (const float other : {0.0f, 1.0f, largest}) {
        Random random(14);
        LayerProfile layer = random_layer(0, {1, 1, 32, 32, 32}, random);
        for (int i = 0; i < 16; ++i) {
          layer.energy_q[i] = i % 3 == 0 ? other : q;
          layer.energy_k[i] = layer.energy_e[i] = i % 5 == 0 ? other : k;
        }
        layer.rms_v[0] = q;
        const HeadPlan plan = plan_layer(layer, {3, 3}).front();
        for (int slot = 0; slot < 32; ++slot) {
          EXPECT_TRUE(std::isnormal(plan.scale[slot]) && plan.scale[slot] > 0) << q << " " << k << " " << other;
          EXPECT_TRUE(std::isnormal(plan.weight[slot]) && plan.weight[slot] > 0)
              << q << " " << k << " " << other;
        }
        EXPECT_GT(plan.v_rms, 0);
        expect_widths(plan, {3, 3});
      }
    }
  }
}

TEST(PlanLayer, RefusesUnsoundInput) {
  Random random(15);
  const LayerProfile good = random_layer(0, {}, random);
  EXPECT_NO_THROW(plan_layer(good, {4, 4}));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const Budget budget : {Budget{0, 4}, Budget{7, 4}, Budget{4, 0}, Budget{4, 7}, Budget{nan, 4},
                              Budget{4, nan}, Budget{3.1, 4}, Budget{4, 3.5}}) {
    EXPECT_THROW(plan_layer(good, budget), Error);
  }
  LayerProfile short_one = good;
  short_one.energy_e.pop_back();
  EXPECT_THROW(plan_layer(short_one, {4, 4}), Error);
  LayerProfile not_finite = good;
  not_finite.mean_keys[5] = std::nanf("");
  EXPECT_THROW(plan_layer(not_finite, {4, 4}), Error);
}

}  // namespace
}  // namespace gtq
