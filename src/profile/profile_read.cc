// GGUF file -> Profile. The checksum was verified over the raw bytes before ggml parses them; everything after
// that guards against a file that was made wrong, so kinds and shapes are still checked before any getter
// (ggml's getters abort the program on a wrong kind).
#include <fmt/format.h>
#include <gguf.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gtq/error.h"
#include "gtq/profile.h"
#include "profile/profile_check.h"
#include "profile/profile_file.h"
#include "profile/profile_format.h"

namespace gtq {
namespace {

namespace format = profile_format;

struct FreeGguf {
  void operator()(gguf_context* context) const { gguf_free(context); }
};

class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path), bytes_(read_profile_bytes(path)) {
    gguf_.reset(gguf_init_from_buffer(bytes_.data(), bytes_.size(), {true, nullptr}));
    if (!gguf_) fail("ggml cannot parse it");
  }

  [[noreturn]] void fail(std::string_view why) const {
    throw Error(
        fmt::format("gtq profile {} is not valid ({}): make it again with `gtq calibrate`", path_, why));
  }

  std::uint32_t u32(const std::string& key) const {
    return gguf_get_val_u32(gguf_.get(), find(key, GGUF_TYPE_UINT32));
  }
  std::uint64_t u64(const std::string& key) const {
    return gguf_get_val_u64(gguf_.get(), find(key, GGUF_TYPE_UINT64));
  }
  float f32(const std::string& key) const {
    return gguf_get_val_f32(gguf_.get(), find(key, GGUF_TYPE_FLOAT32));
  }
  std::string text(const std::string& key) const {
    return gguf_get_val_str(gguf_.get(), find(key, GGUF_TYPE_STRING));
  }

  int count(const std::string& key) const {
    const std::uint32_t value = u32(key);
    if (value > INT_MAX) fail(fmt::format("{} is out of range", key));
    return static_cast<int>(value);
  }

  std::vector<std::uint32_t> u32_array(const std::string& key) const {
    const std::int64_t id = find(key, GGUF_TYPE_ARRAY);
    if (gguf_get_arr_type(gguf_.get(), id) != GGUF_TYPE_UINT32)
      fail(fmt::format("{} is of the wrong kind", key));
    const std::size_t n = gguf_get_arr_n(gguf_.get(), id);
    if (n == 0) return {};
    const auto* data = static_cast<const std::uint32_t*>(gguf_get_arr_data(gguf_.get(), id));
    return {data, data + n};
  }

  std::uint64_t checksum() const {
    std::uint64_t value = 0;
    std::memcpy(&value, bytes_.data() + format::kChecksumOffset, sizeof value);
    return value;
  }

  bool has_tensor(const std::string& name) const { return gguf_find_tensor(gguf_.get(), name.c_str()) >= 0; }

  std::vector<float> tensor(const std::string& name, std::array<std::int64_t, 3> shape) const {
    const std::int64_t id = gguf_find_tensor(gguf_.get(), name.c_str());
    if (id < 0) fail(fmt::format("tensor {} is missing", name));
    if (gguf_get_tensor_type(gguf_.get(), id) != GGML_TYPE_F32) fail(fmt::format("tensor {} is not F32", name));
    const std::int64_t* ne = gguf_get_tensor_ne(gguf_.get(), id);
    if (!std::equal(shape.begin(), shape.end(), ne) || ne[3] != 1) {
      fail(fmt::format("tensor {} has the wrong shape", name));
    }
    // The shape is known to be small by now, so that nothing here overflows.
    std::vector<float> values(static_cast<std::size_t>(shape[0] * shape[1] * shape[2]));
    const std::size_t n_bytes = values.size() * sizeof(float);
    const std::size_t begin = gguf_get_data_offset(gguf_.get());
    const std::size_t offset = gguf_get_tensor_offset(gguf_.get(), id);
    if (begin > bytes_.size() || offset > bytes_.size() - begin || n_bytes > bytes_.size() - begin - offset) {
      fail(fmt::format("tensor {} reaches past the end of the file", name));
    }
    if (n_bytes > 0) std::memcpy(values.data(), bytes_.data() + begin + offset, n_bytes);
    return values;
  }

 private:
  std::int64_t find(const std::string& key, gguf_type kind) const {
    const std::int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0) fail(fmt::format("{} is missing", key));
    if (gguf_get_kv_type(gguf_.get(), id) != kind) fail(fmt::format("{} is of the wrong kind", key));
    return id;
  }

  std::string path_;
  std::vector<std::uint8_t> bytes_;
  std::unique_ptr<gguf_context, FreeGguf> gguf_;
};

LayerProfile read_layer(const Reader& reader, std::uint32_t index) {
  if (index > kProfileMaxLayer) reader.fail("a layer index is out of range");
  const auto key = [index](const char* name) { return fmt::format("gtq.layer.{}.{}", index, name); };
  const auto name = [index](const char* suffix) { return fmt::format("layer.{}.{}", index, suffix); };

  LayerProfile layer;
  layer.layer = static_cast<int>(index);
  layer.n_q_heads = reader.count(key("n_q_heads"));
  layer.n_kv_heads = reader.count(key("n_kv_heads"));
  layer.head_dim_k = reader.count(key("head_dim_k"));
  layer.head_dim_v = reader.count(key("head_dim_v"));
  layer.rope.mode = static_cast<RopeMode>(reader.u32(key("rope_mode")));
  layer.rope.n_rot = reader.count(key("n_rot"));
  layer.rope.n_ctx_orig = reader.count(key("n_ctx_orig"));
  layer.rope.freq_base = reader.f32(key("freq_base"));
  layer.rope.freq_scale = reader.f32(key("freq_scale"));
  layer.rope.ext_factor = reader.f32(key("ext_factor"));
  layer.rope.beta_fast = reader.f32(key("beta_fast"));
  layer.rope.beta_slow = reader.f32(key("beta_slow"));
  const std::string problem = shape_problem(layer);
  if (!problem.empty()) reader.fail(problem);

  const std::int64_t n_blocks = layer.head_dim_k / 2, n_heads = layer.n_kv_heads;
  layer.energy_q = reader.tensor(name("energy_q"), {n_blocks, n_heads, 1});
  layer.energy_k = reader.tensor(name("energy_k"), {n_blocks, n_heads, 1});
  layer.energy_e = reader.tensor(name("energy_e"), {n_blocks, n_heads, 1});
  layer.mean_keys = reader.tensor(name("mean_keys"), {2 * n_blocks, n_heads, kMeans});
  layer.rms_v = reader.tensor(name("rms_v"), {n_heads, 1, 1});
  if (reader.has_tensor(name("freq_factors"))) {
    layer.rope.freq_factors = reader.tensor(name("freq_factors"), {layer.rope.n_rot / 2, 1, 1});
  }
  return layer;
}

}  // namespace

const LayerProfile* Profile::find_layer(int layer) const {
  const auto found = std::ranges::lower_bound(layers, layer, {}, &LayerProfile::layer);
  return found != layers.end() && found->layer == layer ? &*found : nullptr;
}

Profile read_profile(const std::string& path) {
  const Reader reader(path);
  const std::uint32_t version = reader.u32(format::kVersionKey);
  if (version > format::kVersion) {
    throw Error(
        fmt::format("gtq profile {} has format version {} but this gtq reads version {}: update gtq or make "
                    "the profile again "
                    "with `gtq calibrate`",
                    path, version, format::kVersion));
  }
  if (version == 0) reader.fail("its format version is 0");
  if (reader.text(format::kArchitectureKey) != format::kArchitecture) {
    reader.fail(fmt::format("{} is not \"{}\"", format::kArchitectureKey, format::kArchitecture));
  }

  Profile profile;
  profile.model_name = reader.text(format::kModelNameKey);
  profile.fingerprint = reader.u64(format::kFingerprintKey);
  profile.n_tokens = reader.count(format::kTokensKey);
  profile.text_source = reader.text(format::kTextSourceKey);
  profile.checksum = reader.checksum();
  const std::vector<std::uint32_t> layers = reader.u32_array(format::kLayersKey);
  // Before the layers are read, lest one listed a million times fills the memory.
  if (!std::ranges::is_sorted(layers, std::ranges::less_equal{})) reader.fail("its layers are not ascending");
  for (const std::uint32_t layer : layers) profile.layers.push_back(read_layer(reader, layer));
  const std::string problem = profile_problem(profile);
  if (!problem.empty()) reader.fail(problem);
  return profile;
}

}  // namespace gtq
