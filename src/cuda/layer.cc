// Builds and uploads the tables of a layer.
#include "cuda/layer.h"

#include <cuda_fp16.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numbers>
#include <vector>

#include "cuda/page_layout.h"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

// Bytes to be uploaded as one block. Pointers handed out are offsets until relocate() adds the base.
class Blob {
 public:
  template <typename T>
  const T* add(const std::vector<T>& items) {
    bytes_.resize((bytes_.size() + 15) / 16 * 16);
    const std::size_t at = bytes_.size();
    bytes_.resize(at + items.size() * sizeof(T));
    if (!items.empty()) std::memcpy(bytes_.data() + at, items.data(), items.size() * sizeof(T));
    return reinterpret_cast<const T*>(at);
  }
  const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<std::uint8_t> bytes_ = std::vector<std::uint8_t>(16);
};

template <typename T>
void relocate(const T*& pointer, const void* base) {
  pointer =
      reinterpret_cast<const T*>(static_cast<const char*>(base) + reinterpret_cast<std::uintptr_t>(pointer));
}

std::uint8_t stored_level(int width, unsigned stored) {
  return static_cast<std::uint8_t>(codebook_levels(width)[format_code(stored, width)]);
}

// Tables of codebook.cuh: the level of stored code (i | high << 3) is the exclusive-or of the tables S of the
// subsets of the zero bits of `high`, table[S][i]; of 4 bits table[0][i] - table[1][i] where high is 0.
void build_lut(int width, std::uint32_t* words) {
  const int n_high = std::max(width - 3, 0), n_low = 1 << std::min(width, 3);
  const unsigned all = (1u << n_high) - 1;
  for (unsigned subset = 0; subset <= all; ++subset) {
    for (int i = 0; i < n_low; ++i) {
      std::uint8_t byte = 0;
      for (unsigned part = 0; part <= subset; ++part) {
        if ((part & ~subset) == 0) byte ^= stored_level(width, static_cast<unsigned>(i) | ((all & ~part) << 3));
      }
      if (width == 4 && subset == 1) byte = stored_level(4, i | 8) - stored_level(4, i);
      words[2 * subset + i / 4] |= static_cast<std::uint32_t>(byte) << (8 * (i % 4));
    }
  }
}

Luts make_luts() {
  Luts luts{};
  build_lut(1, &luts.w1);
  build_lut(2, &luts.w2);
  build_lut(3, luts.w3);
  build_lut(4, luts.w4);
  build_lut(5, luts.w5);
  build_lut(6, luts.w6);
  return luts;
}

CodecTable make_codec_table() {
  CodecTable table{};
  for (int i = 0; i < 256; ++i) {
    table.key_signs[i] = rotation_sign(0, i);
    table.value_signs[i] = rotation_sign(1, i);
  }
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    const std::int8_t* levels = codebook_levels(width);
    const float step = codebook_step(width);
    for (int i = 0; i < 1 << width; ++i) table.centroids[width - 1][i] = static_cast<float>(levels[i]) * step;
  }
  table.key_norms = key_norm_table();
  table.value_norms = value_norm_table();
  table.levels = level_grid();
  return table;
}

std::uint32_t pack_halves(float low, float high) {
  const __half2_raw raw = __floats2half2_rn(low, high);
  return raw.x | static_cast<std::uint32_t>(raw.y) << 16;
}

float half_rest(float x) { return x - __half2float(__float2half_rn(x)); }

// Centred rope_blocks, fast ones first, of these those that weigh most, so that mean groups hold blocks of one
// size.
std::vector<int> centred_blocks(const HeadPlan& plan, const Rope& rope) {
  std::vector<float> weight_of_dim(plan.head_dim_k);
  for (int slot = 0; slot < plan.head_dim_k; ++slot) weight_of_dim[plan.dims[slot]] = plan.weight[slot];
  std::vector<float> size(rope.n_blocks());
  std::vector<int> blocks;
  for (int i = 0; i < rope.n_blocks(); ++i) {
    if (plan.centred[i] != 0) blocks.push_back(i);
    const float* mean = &plan.mean_keys[plan.head_dim_k];
    const float x = mean[rope.first(i)], y = mean[rope.second(i)];
    size[i] = weight_of_dim[rope.first(i)] * (x * x + y * y);
  }
  std::ranges::stable_sort(blocks, std::greater{}, [&](int i) { return size[i]; });
  std::ranges::stable_partition(blocks, [&](int i) { return !is_slow(rope.theta(i)); });
  return blocks;
}

// Turns per half position as 0.64 fixed point.
std::uint64_t half_turns_of(double theta) {
  const double turns = theta / (4 * std::numbers::pi);
  return static_cast<std::uint64_t>(std::ldexp(turns - std::floor(turns), 64));
}

template <typename T>
void put(std::vector<std::uint8_t>& block, int at, const std::vector<T>& items) {
  if (!items.empty()) std::memcpy(block.data() + at, items.data(), items.size() * sizeof(T));
}

// B fragments of the basis (decode_mean.cuh) for whole mean groups. theta: of all n, the first n_fast groups
// are fast.
std::vector<std::uint32_t> mean_basis(const std::vector<double>& theta, int n_fast) {
  std::vector<std::uint32_t> basis;
  for (int group = 0; group < n_fast * kMeanBlocks; group += kMeanBlocks) {
    for (int tile = 0; tile < 4; ++tile) {
      for (int lane = 0; lane < 32; ++lane) {
        const double x = 8 * tile + lane / 4 + 0.5;
        const double* first = &theta[group + 2 * (lane % 4)];
        const auto cosine = [&](int i) { return static_cast<float>(std::cos(first[i] * x)); };
        const auto minus_sine = [&](int i) { return static_cast<float>(-std::sin(first[i] * x)); };
        basis.push_back(pack_halves(cosine(0), cosine(1)));
        basis.push_back(pack_halves(minus_sine(0), minus_sine(1)));
        basis.push_back(pack_halves(half_rest(cosine(0)), half_rest(cosine(1))));
        basis.push_back(pack_halves(half_rest(minus_sine(0)), half_rest(minus_sine(1))));
      }
    }
  }
  return basis;
}

MeanBlock mean_block(double theta) {
  MeanBlock block{half_turns_of(theta), {}, 0};
  double sign = 1, factorial = 1;
  for (int power = 1; power <= kSlopes; ++power) {
    if (power % 2 == 1) sign = -sign;
    factorial *= power;
    block.slopes[power - 1] = static_cast<float>(sign * std::pow(theta, power) / factorial);
  }
  return block;
}

struct MeanGroups {
  int all, fast;
};

MeanGroups mean_groups(const HeadPlan& plan, const Rope& rope) {
  const auto groups_of = [&](bool slow_ones) {
    int n = 0;
    for (int i = 0; i < rope.n_blocks(); ++i)
      n += plan.centred[i] != 0 && (slow_ones || !is_slow(rope.theta(i)));
    return (n + kMeanBlocks - 1) / kMeanBlocks;
  };
  return {groups_of(true), groups_of(false)};
}

// Appends the head's DecodeBlock with room for the layer's mean groups.
void add_decode_block(const HeadPlan& plan, const Rope& rope, const LayerView& layer,
                      std::vector<std::uint8_t>& all) {
  const int n_groups = layer.n_mean_groups;
  const MeanGroups groups = mean_groups(plan, rope);
  const std::vector<int> blocks = centred_blocks(plan, rope);
  const std::size_t n = static_cast<std::size_t>(n_groups) * kMeanBlocks;
  std::vector<std::uint16_t> dims(2 * n);
  std::vector<float> values(2 * n * kMeans);
  std::vector<MeanBlock> mean_blocks(n);
  std::vector<double> theta(n);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const int block = blocks[i];
    const int pair[2] = {rope.first(block), rope.second(block)};
    theta[i] = rope.theta(block);
    mean_blocks[i] = mean_block(theta[i]);
    for (int e = 0; e < 2; ++e) {
      dims[2 * i + e] = static_cast<std::uint16_t>(pair[e]);
      for (int c = 0; c < kMeans; ++c) {
        values[(c * n + i) * 2 + e] = plan.mean_keys[c * plan.head_dim_k + pair[e]];
      }
    }
  }
  std::vector<float> gain, signs;
  for (int slot = 0; slot < plan.head_dim_k; ++slot) {
    gain.push_back(rotation_sign(0, slot) / plan.scale[slot] * codebook_step(plan.widths[slot / kGroupDims]) /
                   4);
  }
  for (int i = 0; i < plan.head_dim_v; ++i) signs.push_back(rotation_sign(1, i));
  const bool few_slopes = std::all_of(theta.begin() + groups.fast * kMeanBlocks, theta.end(), is_very_slow);
  DecodeScalars scalars{0, static_cast<std::int16_t>(groups.all), static_cast<std::int16_t>(groups.fast),
                        few_slopes ? kFewSlopes : kSlopes, plan.v_rms * codebook_step(plan.v_width)};
  for (const std::uint8_t width : plan.widths) scalars.group_counts += 1u << (5 * (width - 1));
  const DecodeBlock parts = decode_block(plan.head_dim_k, plan.head_dim_v, n_groups, layer.n_fast_groups);
  std::vector<std::uint8_t> block(parts.bytes);
  put(block, parts.basis, mean_basis(theta, groups.fast));
  put(block, parts.mean_blocks, mean_blocks);
  put(block, parts.gain, gain);
  put(block, parts.value_signs, signs);
  put(block, parts.mean_values, values);
  put(block, parts.dims, plan.dims);
  put(block, parts.mean_dims, dims);
  put(block, parts.scalars, std::vector<DecodeScalars>{scalars});
  all.insert(all.end(), block.begin(), block.end());
}

HeadTable make_head(const LayerCodec& codec, int kv_head, Blob& blob) {
  const HeadPlan& plan = codec.plan(kv_head);
  const Rope& rope = codec.rope();
  HeadTable head{};
  head.key_bytes = static_cast<std::uint32_t>(kPageTokens * codec.key_codec(kv_head).row_bytes());
  head.value_bytes = static_cast<std::uint32_t>(kPageTokens * codec.value_codec(kv_head).row_bytes());
  head.v_rms = plan.v_rms;
  std::vector<int> block_of_dim(plan.head_dim_k);
  for (int i = 0; i < rope.n_blocks(); ++i) block_of_dim[rope.first(i)] = i;
  std::vector<std::uint8_t> centred;
  std::vector<std::uint64_t> half_turns;
  for (int slot = 0; slot < plan.head_dim_k; slot += 2) {
    const int block = block_of_dim[plan.dims[slot]];
    centred.push_back(plan.centred[block]);
    half_turns.push_back(half_turns_of(rope.theta(block)));
  }
  head.widths = blob.add(plan.widths);
  head.dims = blob.add(plan.dims);
  head.scale = blob.add(plan.scale);
  head.mean_keys = blob.add(plan.mean_keys);
  head.pair_centred = blob.add(centred);
  head.pair_half_turns = blob.add(half_turns);
  return head;
}

void relocate_head(HeadTable& head, const void* base) {
  relocate(head.widths, base);
  relocate(head.dims, base);
  relocate(head.scale, base);
  relocate(head.mean_keys, base);
  relocate(head.pair_centred, base);
  relocate(head.pair_half_turns, base);
}

template <typename T>
void append(std::vector<T>& all, const std::vector<T>& items) {
  all.insert(all.end(), items.begin(), items.end());
}

EncodeTables make_encode_tables(const LayerCodec& codec, Blob& blob) {
  std::vector<EncodeHead> heads;
  std::vector<KeyRun> runs;
  std::vector<CentredPair> centred;
  std::vector<float4> gains;
  for (int h = 0; h < codec.n_kv_heads(); ++h) {
    heads.push_back(encode_head(codec, h));
    append(runs, key_runs(codec, h));
    append(centred, centred_pairs(codec, h));
    append(gains, value_gains(codec.plan(h)));
  }
  const int n_points = codec.head_dim_v() & -codec.head_dim_v();
  return {blob.add(heads),
          blob.add(runs),
          blob.add(centred),
          blob.add(gains),
          codebook_step(codec.plan(0).v_width),
          1.0f / std::sqrt(static_cast<float>(n_points))};
}

void relocate_encode_tables(EncodeTables& tables, const void* base) {
  relocate(tables.heads, base);
  relocate(tables.key_runs, base);
  relocate(tables.centred, base);
  relocate(tables.value_gains, base);
}

void read_device_limits(Layer::Impl& impl) {
  int device = 0;
  check(cudaGetDevice(&device), "find the current GPU");
  check(cudaDeviceGetAttribute(&impl.n_sms, cudaDevAttrMultiProcessorCount, device), "read GPU properties");
  check(cudaDeviceGetAttribute(&impl.max_shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "read GPU properties");
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "read GPU properties");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "read GPU properties");
  impl.compute_capability = 10 * major + minor;
}

}  // namespace

void check(cudaError_t status, const char* action) {
  if (status != cudaSuccess) throw Error(fmt::format("cannot {}: {}", action, cudaGetErrorString(status)));
}

void check_launch(const char* kernel) {
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess) {
    throw Error(fmt::format("cannot start the GPU kernel {}: {}", kernel, cudaGetErrorString(status)));
  }
}

void check_heads(const Layer::Impl& layer, int n_q_heads) {
  if (n_q_heads <= 0 || n_q_heads % layer.view.n_kv_heads != 0) {
    throw Error(fmt::format("{} query heads cannot share {} KV heads: a multiple of these is needed", n_q_heads,
                            layer.view.n_kv_heads));
  }
}

Layer::Impl::~Impl() { cudaFree(memory); }

Layer::Layer(const LayerCodec& codec) : impl_(std::make_unique<Impl>()) {
  const int n_kv_heads = codec.n_kv_heads();
  if (codec.head_dim_k() > kMaxGroups * kGroupDims || codec.head_dim_v() > kMaxGroups * kGroupDims) {
    throw Error("the GPU cache supports heads of at most 256 dims; keep this layer on the CPU");
  }
  if (codec.head_dim_v() % 32 != 0) {
    throw Error("the GPU cache supports value heads of a multiple of 32 dims; keep this layer on the CPU");
  }
  read_device_limits(*impl_);
  Blob blob;
  std::vector<HeadTable> heads;
  LayerView& view = impl_->view;
  view.n_kv_heads = n_kv_heads;
  view.head_dim_k = codec.head_dim_k();
  view.head_dim_v = codec.head_dim_v();
  view.v_width = codec.plan(0).v_width;
  for (int h = 0; h < n_kv_heads; ++h) {
    HeadTable head = make_head(codec, h, blob);
    head.key_offset = view.key_page_bytes;
    head.value_offset = view.value_page_bytes;
    head.key_row_offset = view.key_token_bytes;
    head.value_row_offset = view.value_token_bytes;
    view.key_page_bytes += head.key_bytes;
    view.value_page_bytes += head.value_bytes;
    view.key_token_bytes += head.key_bytes / kPageTokens;
    view.value_token_bytes += head.value_bytes / kPageTokens;
    view.key_bytes = head.key_bytes;
    view.value_bytes = head.value_bytes;
    const MeanGroups groups = mean_groups(codec.plan(h), codec.rope());
    view.n_mean_groups = std::max(view.n_mean_groups, groups.all);
    view.n_fast_groups = std::max(view.n_fast_groups, groups.fast);
    heads.push_back(head);
  }
  std::vector<std::uint8_t> decode_blocks;
  for (int h = 0; h < n_kv_heads; ++h) {
    add_decode_block(codec.plan(h), codec.rope(), view, decode_blocks);
  }
  view.decode_blocks = reinterpret_cast<const uint4*>(blob.add(decode_blocks));
  view.encode = make_encode_tables(codec, blob);
  impl_->luts = make_luts();
  view.codec = blob.add(std::vector<CodecTable>{make_codec_table()});
  const std::size_t heads_at = (blob.bytes().size() + 15) / 16 * 16;
  const std::size_t n_bytes = heads_at + heads.size() * sizeof(HeadTable);
  check(cudaMalloc(&impl_->memory, n_bytes), "allocate GPU memory for a layer's tables");
  for (HeadTable& head : heads) relocate_head(head, impl_->memory);
  relocate(view.codec, impl_->memory);
  relocate(view.decode_blocks, impl_->memory);
  relocate_encode_tables(view.encode, impl_->memory);
  char* base = static_cast<char*>(impl_->memory);
  view.heads = reinterpret_cast<const HeadTable*>(base + heads_at);
  check(cudaMemcpy(base, blob.bytes().data(), blob.bytes().size(), cudaMemcpyHostToDevice),
        "upload a layer's tables");
  check(cudaMemcpy(base + heads_at, heads.data(), heads.size() * sizeof(HeadTable), cudaMemcpyHostToDevice),
        "upload a layer's tables");
}

Layer::~Layer() = default;

}  // namespace gtq::cuda
