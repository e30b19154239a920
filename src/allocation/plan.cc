// Energies -> HeadPlan. In the space of a * residual, with a = (E_q/E_e)^(1/4), a rope_block matters by E_q /
// a^2 and has energy E_e a^2, both sqrt(E_q E_e): the balance that makes one width fit the whole quant_group.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>
#include <utility>

#include "allocation/widths.h"
#include "gtq/allocation.h"
#include "gtq/error.h"
#include "profile/profile_check.h"

namespace gtq {
namespace {

constexpr int kGroupBlocks = kGroupDims / 2;
// Centring costs time in every step of decode, so a rope_block must lose this share of its energy by it.
constexpr double kCentredShare = 0.75;
// Least energy, as a share of the head's mean and absolute; keeps scales finite where a model's dim is unused.
constexpr double kFloorShare = 1e-12;
constexpr double kFloor = 1e-30;
constexpr float kLeastRms = 1e-8f;  // below what a 16-bit float can hold

// Indices of `values`, best (`before` says so of two values) first, ties by index.
template <typename Before>
std::vector<int> sorted_indices(const std::vector<double>& values, Before before) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int i, int j) { return before(values[i], values[j]); });
  return order;
}

std::vector<double> with_floor(std::vector<double> energies) {
  const double sum = std::accumulate(energies.begin(), energies.end(), 0.0);
  const double floor = std::max(kFloorShare * sum / static_cast<double>(energies.size()), kFloor);
  for (double& energy : energies) energy = std::max(energy, floor);
  return energies;
}

// 1 for the rope_blocks whose mean key is subtracted. Kernels take them in multiples of 8.
std::vector<std::uint8_t> choose_centred(std::span<const float> energy_k, std::span<const float> energy_e) {
  std::vector<double> gains;
  int n = 0;
  for (std::size_t i = 0; i < energy_k.size(); ++i) {
    const double before = energy_k[i], after = energy_e[i];
    gains.push_back(before > 0 ? (before - after) / before : 0.0);
    if (before > 0 && after <= kCentredShare * before) ++n;
  }
  n = (n + kGroupBlocks - 1) / kGroupBlocks * kGroupBlocks;
  std::vector<std::uint8_t> centred(energy_k.size(), 0);
  const std::vector<int> order = sorted_indices(gains, std::greater{});
  for (int rank = 0; rank < n; ++rank) centred[order[rank]] = 1;
  return centred;
}

// One quant_group: its rope_blocks and what it costs to code it.
struct Group {
  std::span<const int> blocks;
  double cost = 0;
  std::uint8_t width = 0;
};

std::vector<Group> make_groups(std::span<const int> order, const std::vector<double>& q,
                               const std::vector<double>& e, int n_bits) {
  std::vector<Group> groups;
  std::vector<double> costs;
  for (std::size_t begin = 0; begin < order.size(); begin += kGroupBlocks) {
    Group group{order.subspan(begin, kGroupBlocks)};
    double balanced = 0;  // mean of E_q / a^2 and of E_e a^2, which are the same number
    for (const int block : group.blocks) balanced += std::sqrt(q[block] * e[block]) / kGroupBlocks;
    group.cost = kGroupBlocks * balanced * balanced;
    costs.push_back(group.cost);
    groups.push_back(group);
  }
  const auto widths = allocate_widths(costs, n_bits);
  for (std::size_t g = 0; g < groups.size(); ++g) groups[g].width = widths[g];
  std::ranges::stable_sort(groups, {}, &Group::width);
  return groups;
}

void append_group(const Group& group, const Rope& rope, const std::vector<double>& q,
                  const std::vector<double>& e, HeadPlan& plan) {
  double energy = 0;  // of a * residual, per rope_block of two dims
  for (const int block : group.blocks) energy += std::sqrt(q[block] * e[block]) / kGroupBlocks;
  const double sigma = std::sqrt(energy / 2);
  plan.widths.push_back(group.width);
  for (const int block : group.blocks) {
    const double a = std::sqrt(std::sqrt(q[block] / e[block]));
    for (const int dim : {rope.first(block), rope.second(block)}) {
      plan.dims.push_back(static_cast<std::uint16_t>(dim));
      plan.scale.push_back(static_cast<float>(a / sigma));
      plan.weight.push_back(static_cast<float>(q[block]));
    }
  }
}

int n_groups(const LayerProfile& layer) { return layer.head_dim_k / kGroupDims; }

HeadPlan plan_head(const LayerProfile& layer, const Rope& rope, int head, const Budget& budget) {
  const int n_blocks = rope.n_blocks();
  const auto energies = [&](const std::vector<float>& all) {
    return std::span(all).subspan(static_cast<std::size_t>(head * n_blocks), n_blocks);
  };
  const auto energy_q = energies(layer.energy_q), energy_k = energies(layer.energy_k);
  const auto energy_e = energies(layer.energy_e);

  HeadPlan plan;
  plan.head_dim_k = layer.head_dim_k;
  plan.head_dim_v = layer.head_dim_v;
  plan.v_width = static_cast<int>(std::lround(budget.v_bits));
  plan.v_rms = std::max(layer.rms_v[head], kLeastRms);
  plan.centred = choose_centred(energy_k, energy_e);
  plan.mean_keys.assign(static_cast<std::size_t>(kMeans * layer.head_dim_k), 0.0f);
  std::vector<double> residual;
  for (int block = 0; block < n_blocks; ++block) {
    residual.push_back(plan.centred[block] != 0 ? energy_e[block] : energy_k[block]);
    for (int c = 0; c < kMeans && plan.centred[block] != 0; ++c) {
      for (const int dim : {rope.first(block), rope.second(block)}) {
        plan.mean_keys[c * layer.head_dim_k + dim] =
            layer.mean_keys[(c * layer.n_kv_heads + head) * layer.head_dim_k + dim];
      }
    }
  }
  const std::vector<double> q = with_floor({energy_q.begin(), energy_q.end()});
  const std::vector<double> e = with_floor(std::move(residual));
  std::vector<double> products;
  for (int block = 0; block < n_blocks; ++block) products.push_back(q[block] * e[block]);
  const std::vector<int> order = sorted_indices(products, std::less{});
  const int n_bits = static_cast<int>(std::lround(budget.k_bits * n_groups(layer)));
  for (const Group& group : make_groups(order, q, e, n_bits)) append_group(group, rope, q, e, plan);
  return plan;
}

bool is_whole(double x) { return std::abs(x - std::round(x)) < 1e-9; }

}  // namespace

std::vector<HeadPlan> plan_layer(const LayerProfile& layer, const Budget& budget) {
  for (const double bits : {budget.k_bits, budget.v_bits}) {
    if (!(bits >= kMinWidth && bits <= kMaxWidth)) {
      throw Error(fmt::format("a KV budget of {} is not supported: use k<1..6>v<1..6>, for example k4v4",
                              to_string(budget)));
    }
  }
  const std::string problem = layer_problem(layer);
  if (!problem.empty()) {
    throw Error(
        fmt::format("cannot plan from this gtq profile ({}): make it again with `gtq calibrate`", problem));
  }
  if (!is_whole(budget.k_bits * n_groups(layer)) || !is_whole(budget.v_bits)) {
    throw Error(fmt::format("a layer cannot spend {} exactly: share it among the layers of the model first",
                            to_string(budget)));
  }
  const Rope rope(layer.head_dim_k, layer.rope);
  std::vector<HeadPlan> plans;
  for (int head = 0; head < layer.n_kv_heads; ++head) plans.push_back(plan_head(layer, rope, head, budget));
  return plans;
}

}  // namespace gtq
