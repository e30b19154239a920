// A Profile is what calibration learned about one model: label-free energies per layer, KV head and rope_block
// (paper, section 3: E|q_i|^2 and E|k_i|^2), the mean keys, and the scale of the values. It holds no budget:
// plans are derived from it (allocation.h). On disk it is a GGUF file (docs/format.md, "Profile").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "gtq/rope.h"

namespace gtq {

inline constexpr int kMeans = 2;  // mean 0: first tokens of a sequence; mean 1: all other tokens

struct LayerProfile {
  int layer = 0;  // llama.cpp's layer index, as in cache_k_l<layer>
  int n_q_heads = 0;
  int n_kv_heads = 0;  // divides n_q_heads
  int head_dim_k = 0;  // multiples of 16
  int head_dim_v = 0;
  RopeParams rope;
  std::vector<float> energy_q;   // [n_kv_heads][head_dim_k / 2]  E|q_i|^2 over the query heads of the group
  std::vector<float> energy_k;   // [n_kv_heads][head_dim_k / 2]  E|k_i|^2
  std::vector<float> energy_e;   // [n_kv_heads][head_dim_k / 2]  E|k_i - (R_t mu_c)_i|^2, nearer mean c
  std::vector<float> mean_keys;  // [kMeans][n_kv_heads][head_dim_k]  before RoPE, in head order of dims
  std::vector<float> rms_v;      // [n_kv_heads]  sqrt E|v|^2 / head_dim_v
};

struct Profile {
  std::string model_name;            // general.name of the model, for people
  std::uint64_t fingerprint = 0;     // of the model's small weights, as the plugin sees them in the graph
  int n_tokens = 0;                  // tokens the sums are over
  std::string text_source;           // "default", the file name of the calibration text, or "first prompts"
  std::vector<LayerProfile> layers;  // ascending by layer; layers without a cache are absent
  std::uint64_t checksum = 0;        // of the file that read_profile() read; 0: of no file

  const LayerProfile* find_layer(int layer) const;  // nullptr when absent
};

// Both throw Error. Reading checks size, checksum, version and every shape before anything is used; a file
// that was cut or changed in any byte is refused. Writing goes to a temporary file beside `path` that is
// renamed when complete and removed when not.
Profile read_profile(const std::string& path);
void write_profile(const Profile& profile, const std::string& path);

// The checksum inside the profile's file: the one it was read from, else the one that write_profile() makes.
// Throws Error when the profile is not good.
std::uint64_t profile_checksum(const Profile& profile);

}  // namespace gtq
