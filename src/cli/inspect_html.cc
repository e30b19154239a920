// `gtq inspect --html`: the numbers of a plan as JSON inside src/cli/inspect.html, which draws them.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "embedded.h"
#include "inspect_report.h"

namespace gtq::cli {
namespace {

constexpr std::string_view kMarker = "\"GTQ_DATA\"";

// One row of the heat maps; all arrays by rope_block, fastest rotation first.
nlohmann::ordered_json head_json(const LayerProfile& layer, int head, const HeadPlan& plan) {
  const int n_blocks = layer.head_dim_k / 2;
  const auto rounded = [](double x) { return std::round(x * 100) / 100; };
  std::vector<int> width(static_cast<std::size_t>(n_blocks));
  for (std::size_t slot = 0; slot < plan.dims.size(); ++slot) {
    const int dim = plan.dims[slot];
    const int block =
        layer.rope.mode == RopeMode::kNeox && dim < layer.rope.n_rot ? dim % (layer.rope.n_rot / 2) : dim / 2;
    width[static_cast<std::size_t>(block)] = plan.widths[slot / kGroupDims];
  }
  std::vector<double> matters, mean_share;
  for (int i = 0; i < n_blocks; ++i) {
    const std::size_t at = static_cast<std::size_t>(head * n_blocks + i);
    const double q = layer.energy_q[at], k = layer.energy_k[at], e = layer.energy_e[at];
    matters.push_back(rounded(std::log10(std::max(1e-30, std::sqrt(q * k)))));
    mean_share.push_back(k > 0 ? rounded(std::clamp(1 - e / k, 0.0, 1.0)) : 0);
  }
  return {{"layer", layer.layer},     {"head", head},           {"width", width}, {"energy", matters},
          {"mean_share", mean_share}, {"centred", plan.centred}};
}

}  // namespace

std::string report_html(const ProfileReport& report) {
  const Profile& profile = *report.profile;
  nlohmann::ordered_json data = {{"model", profile.model_name},
                                 {"budget", to_string(report.budget)},
                                 {"true_bits", report.true_bits},
                                 {"bytes_per_token", report.bytes_per_token},
                                 {"f16_bytes_per_token", report.f16_bytes_per_token},
                                 {"n_tokens", profile.n_tokens},
                                 {"rows", nlohmann::ordered_json::array()}};
  for (std::size_t i = 0; i < profile.layers.size(); ++i) {
    const LayerProfile& layer = profile.layers[i];
    const std::vector<HeadPlan> plans = plan_layer(layer, report.layers[i].budget);
    for (int h = 0; h < layer.n_kv_heads; ++h) data["rows"].push_back(head_json(layer, h, plans[h]));
  }
  std::string json = data.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
  for (std::size_t at = json.find('<'); at != std::string::npos; at = json.find('<', at)) {
    json.replace(at, 1, "\\u003c");  // a model's name must not end the script
  }
  std::string page(inspect_page());
  return page.replace(page.find(kMarker), kMarker.size(), json);
}

}  // namespace gtq::cli
