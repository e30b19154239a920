#include "reference/paper.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <utility>

#include "gtq/error.h"
#include "reference/haar.h"
#include "reference/half.h"
#include "reference/lloyd_max.h"
#include "reference/rotary.h"

namespace gtq::reference {
namespace {

constexpr int kPaperMinWidth = 1;
constexpr int kPaperMaxWidth = 8;
constexpr std::uint64_t kBlockGtqSeed = 0x626C6F636B677471;

// out = M^T in for a row-major [n][n] matrix: adding scaled rows lets the compiler use vectors without
// reordering any sum.
void multiply_transposed(const std::vector<float>& matrix, const std::vector<float>& in,
                         std::vector<float>& out) {
  const std::size_t n = in.size();
  std::fill(out.begin(), out.end(), 0.0f);
  float* sums = out.data();
  for (std::size_t i = 0; i < n; ++i) {
    const float* row = &matrix[i * n];
    const float x = in[i];
    for (std::size_t j = 0; j < n; ++j) sums[j] += x * row[j];
  }
}

double norm_of(const std::vector<float>& x) {
  double sum = 0;
  for (const float value : x) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

std::vector<float> to_floats(const std::vector<double>& in) { return {in.begin(), in.end()}; }

}  // namespace

struct TqMse::Rotation {
  std::vector<float> matrix, transposed;
};

std::shared_ptr<const TqMse::Rotation> TqMse::shared_rotation(int dim, std::uint64_t seed) {
  static std::mutex mutex;
  static std::map<std::pair<int, std::uint64_t>, std::weak_ptr<const Rotation>> cache;
  const std::lock_guard lock(mutex);
  std::weak_ptr<const Rotation>& entry = cache[{dim, seed}];
  std::shared_ptr<const Rotation> shared = entry.lock();
  if (shared) return shared;

  const auto rotation = std::make_shared<Rotation>();
  rotation->matrix = to_floats(haar_rotation(dim, seed));
  rotation->transposed.resize(rotation->matrix.size());
  for (int i = 0; i < dim; ++i) {
    for (int j = 0; j < dim; ++j) rotation->transposed[j * dim + i] = rotation->matrix[i * dim + j];
  }
  entry = rotation;
  return rotation;
}

TqMse::TqMse(int dim, int bits, std::uint64_t seed) : dim_(dim), bits_(bits) {
  if (dim < 2 || bits < kPaperMinWidth || bits > kPaperMaxWidth) {
    throw Error("tq-mse needs at least 2 dims and 1 to 8 bits");
  }
  const Codebook& codebook = sphere_codebook(dim, bits);
  centroids_ = to_floats(codebook.centroids);
  thresholds_ = to_floats(codebook.thresholds);
  rotation_ = shared_rotation(dim, seed);
}

// Number of thresholds <= x by halving; there are 2^bits - 1, so every search takes `bits` steps.
float TqMse::nearest_centroid(float x) const {
  unsigned code = 0;
  for (unsigned step = 1u << (bits_ - 1); step > 0; step /= 2) {
    code += x >= thresholds_[code + step - 1] ? step : 0;
  }
  return centroids_[code];
}

void TqMse::simulate(const float* in, float* out) const {
  std::vector<float> x(in, in + dim_), y(dim_);
  for (float& value : x) value = std::isfinite(value) ? value : 0.0f;
  const double norm = norm_of(x);
  if (norm == 0) {
    std::fill(out, out + dim_, 0.0f);
    return;
  }
  for (float& value : x) value = static_cast<float>(value / norm);
  multiply_transposed(rotation_->transposed, x, y);  // y = Q x
  for (float& value : y) value = nearest_centroid(value);
  const auto scale = static_cast<float>(round_to_half(norm) / norm_of(y));
  multiply_transposed(rotation_->matrix, y, x);  // x = Q^T y
  for (int i = 0; i < dim_; ++i) out[i] = scale * x[i];
}

std::vector<int> greedy_widths(const std::vector<double>& energies, int avg_bits) {
  std::vector<int> widths(energies.size(), kPaperMinWidth);
  const std::size_t n_further = energies.size() * static_cast<std::size_t>(avg_bits - kPaperMinWidth);
  for (std::size_t given = 0; given < n_further; ++given) {
    std::size_t best = energies.size();
    double best_gain = -1;
    for (std::size_t i = 0; i < energies.size(); ++i) {
      const double gain = energies[i] * std::ldexp(0.75, -2 * widths[i]);  // s (4^-b - 4^-(b+1))
      if (widths[i] == kPaperMaxWidth || !(gain > best_gain)) continue;
      best = i;
      best_gain = gain;
    }
    ++widths[best];
  }
  return widths;
}

BlockGtq::BlockGtq(const LayerProfile& layer, int kv_head, int k_bits) : head_dim_(layer.head_dim_k) {
  const std::size_t n_blocks = layer.head_dim_k / 2, offset = kv_head * n_blocks;
  if (k_bits < kPaperMinWidth || k_bits > kPaperMaxWidth || kv_head < 0 || kv_head >= layer.n_kv_heads ||
      layer.rope.n_rot > head_dim_ || layer.energy_q.size() < offset + n_blocks ||
      layer.energy_k.size() < offset + n_blocks) {
    throw Error("block-gtq needs 1 to 8 bits and a profile with the energies of this KV head");
  }
  std::vector<double> energies(n_blocks);
  for (std::size_t i = 0; i < n_blocks; ++i) {
    energies[i] =
        static_cast<double>(layer.energy_q[offset + i]) + static_cast<double>(layer.energy_k[offset + i]);
  }
  widths_ = greedy_widths(energies, k_bits);

  const std::vector<RopeBlock> blocks = rope_blocks(head_dim_, layer.rope);
  for (int width = kPaperMinWidth; width <= kPaperMaxWidth; ++width) {
    std::vector<int> dims;
    for (std::size_t i = 0; i < n_blocks; ++i) {
      if (widths_[i] != width) continue;
      dims.push_back(blocks[i].first);
      dims.push_back(blocks[i].second);
    }
    if (dims.empty()) continue;
    const auto id = (static_cast<std::uint64_t>(layer.layer) * layer.n_kv_heads + kv_head) * 16 + width;
    TqMse quantizer(static_cast<int>(dims.size()), width, splitmix64_mix(kBlockGtqSeed + id));
    groups_.push_back({std::move(dims), std::move(quantizer)});
  }
}

void BlockGtq::simulate(const float* in, float* out) const {
  std::vector<float> part;
  part.reserve(head_dim_);
  for (const Group& group : groups_) {
    part.clear();
    for (const int dim : group.dims) part.push_back(in[dim]);
    group.quantizer.simulate(part.data(), part.data());
    for (std::size_t i = 0; i < group.dims.size(); ++i) out[group.dims[i]] = part[i];
  }
}

double BlockGtq::true_bits() const {
  double bits = 0;
  for (const Group& group : groups_) bits += group.quantizer.dim() * group.quantizer.true_bits();
  return bits / head_dim_;
}

}  // namespace gtq::reference
