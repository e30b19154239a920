// gtq inspect: what calibration found in a model and how a budget would be spent on it.
#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "gtq/codec.h"
#include "inspect_report.h"
#include "verbs.h"

namespace gtq::cli {
namespace {

double log10_mean(const std::vector<float>& energies, int n_heads) {
  return std::log10(std::accumulate(energies.begin(), energies.end(), 0.0) / n_heads);
}

LayerReport report_layer(const LayerProfile& layer, const Budget& budget) {
  LayerReport out;
  out.budget = budget;
  out.layer = layer.layer;
  out.n_q_heads = layer.n_q_heads;
  out.n_kv_heads = layer.n_kv_heads;
  out.head_dim_k = layer.head_dim_k;
  out.head_dim_v = layer.head_dim_v;
  for (const HeadPlan& plan : plan_layer(layer, budget)) {
    out.bytes_per_token += key_row_bytes(plan) + value_row_bytes(plan);
    for (std::uint8_t width : plan.widths) out.groups_of_width.at(width) += 1;
    for (std::uint8_t centred : plan.centred) out.centred_blocks += centred != 0 ? 1 : 0;
  }
  for (double& n : out.groups_of_width) n /= layer.n_kv_heads;
  out.centred_blocks /= layer.n_kv_heads;
  out.log10_q = log10_mean(layer.energy_q, layer.n_kv_heads);
  out.log10_k = log10_mean(layer.energy_k, layer.n_kv_heads);
  out.log10_e = log10_mean(layer.energy_e, layer.n_kv_heads);
  out.energy_left = std::pow(10.0, out.log10_e - out.log10_k);
  out.true_bits_k = true_bits_k(layer.head_dim_k, budget);
  out.true_bits_v = true_bits_v(layer.head_dim_v, budget);
  const auto n_kv_heads = static_cast<std::size_t>(layer.n_kv_heads);
  out.f16_bytes_per_token = n_kv_heads * static_cast<std::size_t>(layer.head_dim_k + layer.head_dim_v) * 2;
  return out;
}

}  // namespace

ProfileReport make_report(const Profile& profile, const Budget& budget) {
  ProfileReport report;
  report.profile = &profile;
  report.budget = budget;
  const std::vector<Budget> budgets = share_budget(profile, budget);
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    report.layers.push_back(report_layer(profile.layers[i], budgets[i]));
    report.bytes_per_token += report.layers.back().bytes_per_token;
    report.f16_bytes_per_token += report.layers.back().f16_bytes_per_token;
  }
  if (report.f16_bytes_per_token > 0) {
    report.true_bits =
        16.0 * static_cast<double>(report.bytes_per_token) / static_cast<double>(report.f16_bytes_per_token);
  }
  return report;
}

int inspect(const InspectOptions& options) {
  const Budget budget = parse_budget(options.kv);
  const Profile profile = read_profile(options.profile);
  const ProfileReport report = make_report(profile, budget);
  if (options.json) {
    fmt::print("{}", report_json(report));
  } else if (options.html) {
    fmt::print("{}", report_html(report));
  } else {
    fmt::print("{}", report_table(report));
  }
  return kExitOk;
}

}  // namespace gtq::cli
