// Profile -> GGUF file. ggml's writer makes the metadata; the data follows in the order of the tensors, each
// padded to GGUF's alignment.
#include <fmt/format.h>
#include <ggml.h>
#include <gguf.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gtq/error.h"
#include "gtq/profile.h"
#include "profile/profile_check.h"
#include "profile/profile_file.h"
#include "profile/profile_format.h"

namespace gtq {
namespace {

namespace format = profile_format;

constexpr std::size_t kTensorsPerLayer = 6;

struct FreeGguf {
  void operator()(gguf_context* context) const { gguf_free(context); }
};
struct FreeGgml {
  void operator()(ggml_context* context) const { ggml_free(context); }
};

// Metadata and the data still to be written behind it. The vectors of the profile must outlive it.
class Writer {
 public:
  explicit Writer(std::size_t n_layers) : gguf_(gguf_init_empty()) {
    const ggml_init_params params = {n_layers * kTensorsPerLayer * ggml_tensor_overhead(), nullptr, true};
    tensors_.reset(ggml_init(params));
    if (!tensors_) throw Error("not enough memory to write a gtq profile: free some and try again");
  }

  gguf_context* gguf() { return gguf_.get(); }

  void add_tensor(const std::string& name, const std::vector<float>& values, std::int64_t ne0, std::int64_t ne1,
                  std::int64_t ne2) {
    ggml_tensor* tensor = ggml_new_tensor_3d(tensors_.get(), GGML_TYPE_F32, ne0, ne1, ne2);
    ggml_set_name(tensor, name.c_str());
    gguf_add_tensor(gguf_.get(), tensor);
    data_.push_back(&values);
  }

  std::vector<std::uint8_t> bytes() const {
    std::vector<std::uint8_t> out(gguf_get_meta_size(gguf_.get()));
    gguf_get_meta_data(gguf_.get(), out.data());
    const std::size_t alignment = gguf_get_alignment(gguf_.get());
    for (const std::vector<float>* values : data_) {
      const std::size_t begin = out.size();
      const std::size_t n_bytes = values->size() * sizeof(float);
      out.resize(begin + (n_bytes + alignment - 1) / alignment * alignment);
      std::memcpy(out.data() + begin, values->data(), n_bytes);
    }
    const std::uint64_t sum = format::checksum(out.data(), out.size());
    std::memcpy(out.data() + format::kChecksumOffset, &sum, sizeof(sum));
    return out;
  }

 private:
  std::unique_ptr<gguf_context, FreeGguf> gguf_;
  std::unique_ptr<ggml_context, FreeGgml> tensors_;
  std::vector<const std::vector<float>*> data_;
};

void add_layer(const LayerProfile& layer, Writer& writer) {
  const auto set_count = [&](const char* name, int value) {
    const std::string key = fmt::format("gtq.layer.{}.{}", layer.layer, name);
    gguf_set_val_u32(writer.gguf(), key.c_str(), static_cast<std::uint32_t>(value));
  };
  const auto set_number = [&](const char* name, float value) {
    gguf_set_val_f32(writer.gguf(), fmt::format("gtq.layer.{}.{}", layer.layer, name).c_str(), value);
  };
  set_count("n_q_heads", layer.n_q_heads);
  set_count("n_kv_heads", layer.n_kv_heads);
  set_count("head_dim_k", layer.head_dim_k);
  set_count("head_dim_v", layer.head_dim_v);
  set_count("rope_mode", static_cast<int>(layer.rope.mode));
  set_count("n_rot", layer.rope.n_rot);
  set_count("n_ctx_orig", layer.rope.n_ctx_orig);
  set_number("freq_base", layer.rope.freq_base);
  set_number("freq_scale", layer.rope.freq_scale);
  set_number("ext_factor", layer.rope.ext_factor);
  set_number("beta_fast", layer.rope.beta_fast);
  set_number("beta_slow", layer.rope.beta_slow);

  const auto add = [&](const char* name, const std::vector<float>& values, int ne0, int ne1, int ne2) {
    writer.add_tensor(fmt::format("layer.{}.{}", layer.layer, name), values, ne0, ne1, ne2);
  };
  add("energy_q", layer.energy_q, layer.head_dim_k / 2, layer.n_kv_heads, 1);
  add("energy_k", layer.energy_k, layer.head_dim_k / 2, layer.n_kv_heads, 1);
  add("energy_e", layer.energy_e, layer.head_dim_k / 2, layer.n_kv_heads, 1);
  add("mean_keys", layer.mean_keys, layer.head_dim_k, layer.n_kv_heads, kMeans);
  add("rms_v", layer.rms_v, layer.n_kv_heads, 1, 1);
  if (!layer.rope.freq_factors.empty()) {
    add("freq_factors", layer.rope.freq_factors, layer.rope.n_rot / 2, 1, 1);
  }
}

std::vector<std::uint8_t> profile_bytes(const Profile& profile) {
  Writer writer(profile.layers.size());
  gguf_context* gguf = writer.gguf();
  gguf_set_val_u64(gguf, std::string(format::kChecksumKey).c_str(), 0);  // must stay the first key
  gguf_set_val_str(gguf, format::kArchitectureKey, format::kArchitecture);
  gguf_set_val_str(gguf, format::kTypeKey, format::kType);
  gguf_set_val_u32(gguf, format::kVersionKey, format::kVersion);
  gguf_set_val_str(gguf, format::kModelNameKey, profile.model_name.c_str());
  gguf_set_val_u64(gguf, format::kFingerprintKey, profile.fingerprint);
  gguf_set_val_u32(gguf, format::kTokensKey, static_cast<std::uint32_t>(profile.n_tokens));
  gguf_set_val_str(gguf, format::kTextSourceKey, profile.text_source.c_str());
  std::vector<std::uint32_t> layers;
  for (const LayerProfile& layer : profile.layers) layers.push_back(static_cast<std::uint32_t>(layer.layer));
  gguf_set_arr_data(gguf, format::kLayersKey, GGUF_TYPE_UINT32, layers.data(), layers.size());
  for (const LayerProfile& layer : profile.layers) add_layer(layer, writer);
  return writer.bytes();
}

// `what` begins the sentence that says what is wrong.
void check_profile(const Profile& profile, const std::string& what) {
  const std::string problem = profile_problem(profile);
  if (!problem.empty()) throw Error(fmt::format("{} ({}): calibrate again with another text", what, problem));
}

}  // namespace

void write_profile(const Profile& profile, const std::string& path) {
  check_profile(profile, fmt::format("will not write gtq profile {}", path));
  replace_file(path, profile_bytes(profile));
}

std::uint64_t profile_checksum(const Profile& profile) {
  if (profile.checksum != 0) return profile.checksum;
  check_profile(profile, "this calibration gave no good profile");
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, profile_bytes(profile).data() + format::kChecksumOffset, sizeof checksum);
  return checksum;
}

}  // namespace gtq
