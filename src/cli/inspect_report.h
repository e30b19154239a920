// What `gtq inspect` knows about a profile under a budget, before it is printed as a table or as JSON.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/profile.h"

namespace gtq::cli {

// Energies are sums over rope_blocks, averaged over KV heads, as log10; so are widths and centred blocks
// averages.
struct LayerReport {
  Budget budget;
  int layer = 0;
  int n_q_heads = 0, n_kv_heads = 0;
  int head_dim_k = 0, head_dim_v = 0;
  std::array<double, kMaxWidth + 1> groups_of_width{};  // [width], 0 unused
  double energy_left = 0;                               // E_e / E_k: share of key energy the mean key leaves
  double centred_blocks = 0;
  double log10_q = 0, log10_k = 0, log10_e = 0;
  double true_bits_k = 0, true_bits_v = 0;
  std::size_t bytes_per_token = 0, f16_bytes_per_token = 0;
};

struct ProfileReport {
  const Profile* profile = nullptr;
  Budget budget;
  std::vector<LayerReport> layers;
  double true_bits = 0;  // per value, keys and values together
  std::size_t bytes_per_token = 0, f16_bytes_per_token = 0;
};

// The profile must outlive the report.
ProfileReport make_report(const Profile& profile, const Budget& budget);

std::string report_table(const ProfileReport& report);
std::string report_json(const ProfileReport& report);
// A page that needs nothing else: heat maps by layer, KV head and rope_block.
std::string report_html(const ProfileReport& report);

}  // namespace gtq::cli
