// The two ways a report is printed.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "inspect_report.h"
#include "paths.h"

namespace gtq::cli {
namespace {

std::string mode_name(RopeMode mode) { return mode == RopeMode::kNeox ? "neox" : "interleaved"; }

std::string rope_text(const RopeParams& rope) {
  std::string out = fmt::format("{}, n_rot {}, base {:g}", mode_name(rope.mode), rope.n_rot, rope.freq_base);
  if (rope.freq_scale != 1.0f) out += fmt::format(", scale {:g}", rope.freq_scale);
  if (rope.ext_factor != 0.0f) out += fmt::format(", YaRN from {} tokens", rope.n_ctx_orig);
  if (!rope.freq_factors.empty()) out += ", frequency factors";
  return out;
}

// "1x2 2x3.5": two groups of width 1, 3.5 of width 2 on average over the KV heads.
std::string widths_text(const LayerReport& layer) {
  std::string out;
  for (std::size_t width = 1; width < layer.groups_of_width.size(); ++width) {
    const double n = layer.groups_of_width[width];
    if (n > 0) out += fmt::format("{}{}x{:.3g}", out.empty() ? "" : " ", width, n);
  }
  return out;
}

double ratio(const ProfileReport& report) {
  return report.bytes_per_token == 0
             ? 0.0
             : static_cast<double>(report.f16_bytes_per_token) / static_cast<double>(report.bytes_per_token);
}

nlohmann::ordered_json rope_json(const RopeParams& rope) {
  return {
      {"mode", mode_name(rope.mode)},  {"n_rot", rope.n_rot},           {"freq_base", rope.freq_base},
      {"freq_scale", rope.freq_scale}, {"ext_factor", rope.ext_factor}, {"beta_fast", rope.beta_fast},
      {"beta_slow", rope.beta_slow},   {"n_ctx_orig", rope.n_ctx_orig}, {"freq_factors", rope.freq_factors}};
}

nlohmann::ordered_json layer_json(const LayerReport& layer, const RopeParams& rope) {
  nlohmann::ordered_json widths = nlohmann::ordered_json::object();
  for (std::size_t width = 1; width < layer.groups_of_width.size(); ++width) {
    widths[std::to_string(width)] = layer.groups_of_width[width];
  }
  return {{"layer", layer.layer},
          {"n_q_heads", layer.n_q_heads},
          {"n_kv_heads", layer.n_kv_heads},
          {"head_dim_k", layer.head_dim_k},
          {"head_dim_v", layer.head_dim_v},
          {"rope", rope_json(rope)},
          {"groups_of_width", widths},
          {"energy_left", layer.energy_left},
          {"centred_blocks", layer.centred_blocks},
          {"log10_energy_q", layer.log10_q},
          {"log10_energy_k", layer.log10_k},
          {"log10_energy_e", layer.log10_e},
          {"true_bits_k", layer.true_bits_k},
          {"true_bits_v", layer.true_bits_v},
          {"bytes_per_token", layer.bytes_per_token},
          {"f16_bytes_per_token", layer.f16_bytes_per_token}};
}

}  // namespace

std::string report_table(const ProfileReport& report) {
  const Profile& profile = *report.profile;
  std::string out;
  out += fmt::format("model        {}\n", printable(profile.model_name));
  out += fmt::format("fingerprint  {:016x}\n", profile.fingerprint);
  out += fmt::format("calibration  {} tokens, text: {}\n", profile.n_tokens, printable(profile.text_source));
  if (!profile.layers.empty()) {
    const RopeParams& first = profile.layers.front().rope;
    bool same = true;
    for (const LayerProfile& layer : profile.layers) same = same && layer.rope == first;
    out += fmt::format("RoPE         {}{}\n", rope_text(first), same ? "" : " (others in some layers)");
  }
  out += fmt::format("budget       {}\n\n", to_string(report.budget));
  out += fmt::format("{:>5} {:>7} {:>9} {:>6} {:>7} {:>6} {:>6} {:>6} {:>7} {:>7}  {}\n", "layer", "heads",
                     "dims", "left", "centred", "lg Eq", "lg Ek", "lg Ee", "bits K", "bits V",
                     "key widths (width x groups)");
  for (const LayerReport& layer : report.layers) {
    out += fmt::format("{:>5} {:>7} {:>9} {:>6.3f} {:>7.3g} {:>6.2f} {:>6.2f} {:>6.2f} {:>7.4f} {:>7.4f}  {}\n",
                       layer.layer, fmt::format("{}/{}", layer.n_q_heads, layer.n_kv_heads),
                       fmt::format("{}/{}", layer.head_dim_k, layer.head_dim_v), layer.energy_left,
                       layer.centred_blocks, layer.log10_q, layer.log10_k, layer.log10_e, layer.true_bits_k,
                       layer.true_bits_v, widths_text(layer));
  }
  out += fmt::format("\ntotal: {:.4f} bits per value, {} bytes per token, f16 {} bytes, {:.2f} times smaller\n",
                     report.true_bits, report.bytes_per_token, report.f16_bytes_per_token, ratio(report));
  out +=
      "heads: query/KV; left: share of key energy after the mean key; centred: rope_blocks with a mean key\n";
  return out;
}

std::string report_json(const ProfileReport& report) {
  const Profile& profile = *report.profile;
  nlohmann::ordered_json json = {
      {"model", profile.model_name},        {"fingerprint", fmt::format("{:016x}", profile.fingerprint)},
      {"n_tokens", profile.n_tokens},       {"text", profile.text_source},
      {"budget", to_string(report.budget)}, {"layers", nlohmann::ordered_json::array()}};
  for (std::size_t i = 0; i < report.layers.size(); ++i) {
    json["layers"].push_back(layer_json(report.layers[i], profile.layers[i].rope));
  }
  json["true_bits"] = report.true_bits;
  json["bytes_per_token"] = report.bytes_per_token;
  json["f16_bytes_per_token"] = report.f16_bytes_per_token;
  json["ratio"] = ratio(report);
  // Names come from model files and may hold any bytes.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace gtq::cli
