#include "gtq/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "gtq/error.h"
#include "profile/profile_check.h"

namespace gtq {
namespace {

constexpr std::int64_t kMinTokens = 64;

}  // namespace

struct LayerCalibrator::Impl {
  LayerProfile shape;  // counts and RoPE parameters; the vectors stay empty
  Rope rope;
  std::vector<double> sum_q;               // [n_kv_heads][n_blocks]
  std::vector<double> sum_v;               // [n_kv_heads]
  std::vector<float> keys;                 // [token][n_kv_heads][head_dim_k], before RoPE
  std::vector<std::uint8_t> first_tokens;  // [token] 1 at position 0
  std::int64_t n_queries = 0, n_values = 0;

  Impl(LayerProfile layer, const RopeParams& params) : shape(std::move(layer)), rope(shape.head_dim_k, params) {
    sum_q.assign(static_cast<std::size_t>(shape.n_kv_heads * rope.n_blocks()), 0.0);
    sum_v.assign(static_cast<std::size_t>(shape.n_kv_heads), 0.0);
  }

  std::int64_t n_keys() const { return static_cast<std::int64_t>(first_tokens.size()); }
  const float* key(std::int64_t token, int head) const {
    return keys.data() + (token * shape.n_kv_heads + head) * shape.head_dim_k;
  }

  void check_complete() const;
  std::vector<double> mean_keys(int head) const;
  std::span<const double> query_sums(int head) const;
  void finish_head(int head, LayerProfile& out) const;
};

void LayerCalibrator::Impl::check_complete() const {
  const std::int64_t least = std::min({n_keys(), n_queries, n_values});
  if (least < kMinTokens) {
    throw Error(fmt::format(
        "calibration of layer {} saw only {} keys, {} queries and {} values: use a text of {} tokens or more",
        shape.layer, n_keys(), n_queries, n_values, kMinTokens));
  }
}

// [kMeans][head_dim_k]. Where one of the two kinds of token was not seen, both means are that of the other.
std::vector<double> LayerCalibrator::Impl::mean_keys(int head) const {
  const int head_dim = shape.head_dim_k;
  std::vector<double> means(static_cast<std::size_t>(kMeans * head_dim), 0.0);
  std::int64_t counts[kMeans] = {};
  for (std::int64_t t = 0; t < n_keys(); ++t) {
    const int c = first_tokens[t] != 0 ? 0 : 1;
    const float* k = key(t, head);
    for (int d = 0; d < head_dim; ++d) means[c * head_dim + d] += k[d];
    ++counts[c];
  }
  for (int c = 0; c < kMeans; ++c) {
    for (int d = 0; d < head_dim && counts[c] > 0; ++d)
      means[c * head_dim + d] /= static_cast<double>(counts[c]);
  }
  for (int c = 0; c < kMeans; ++c) {
    if (counts[c] == 0) std::copy_n(&means[(1 - c) * head_dim], head_dim, &means[c * head_dim]);
  }
  return means;
}

std::span<const double> LayerCalibrator::Impl::query_sums(int head) const {
  return std::span(sum_q).subspan(static_cast<std::size_t>(head * rope.n_blocks()), rope.n_blocks());
}

void LayerCalibrator::Impl::finish_head(int head, LayerProfile& out) const {
  const int head_dim = shape.head_dim_k, n_blocks = rope.n_blocks();
  const std::vector<double> means = mean_keys(head);
  const std::span<const double> query = query_sums(head);
  std::vector<double> sum_k(n_blocks, 0.0), sum_e(n_blocks, 0.0), residual(kMeans * n_blocks);
  for (std::int64_t t = 0; t < n_keys(); ++t) {
    const float* k = key(t, head);
    // Before RoPE: the energy of a rope_block does not change when key and mean rotate together.
    double distance[kMeans] = {};
    for (int i = 0; i < n_blocks; ++i) {
      const double x = k[rope.first(i)], y = k[rope.second(i)];
      sum_k[i] += x * x + y * y;
      for (int c = 0; c < kMeans; ++c) {
        const double dx = x - means[c * head_dim + rope.first(i)],
                     dy = y - means[c * head_dim + rope.second(i)];
        residual[c * n_blocks + i] = dx * dx + dy * dy;
        distance[c] += query[i] * residual[c * n_blocks + i];
      }
    }
    const int c = distance[0] < distance[1] ? 0 : 1;
    for (int i = 0; i < n_blocks; ++i) sum_e[i] += residual[c * n_blocks + i];
  }

  const auto n_tokens = static_cast<double>(n_keys());
  const double n_query_rows = static_cast<double>(n_queries) * (shape.n_q_heads / shape.n_kv_heads);
  for (int i = 0; i < n_blocks; ++i) {
    const std::size_t at = static_cast<std::size_t>(head * n_blocks + i);
    out.energy_q[at] = static_cast<float>(query[i] / n_query_rows);
    out.energy_k[at] = static_cast<float>(sum_k[i] / n_tokens);
    out.energy_e[at] = static_cast<float>(sum_e[i] / n_tokens);
  }
  for (int c = 0; c < kMeans; ++c) {
    for (int d = 0; d < head_dim; ++d) {
      out.mean_keys[(c * shape.n_kv_heads + head) * head_dim + d] = static_cast<float>(means[c * head_dim + d]);
    }
  }
  out.rms_v[head] =
      static_cast<float>(std::sqrt(sum_v[head] / (static_cast<double>(n_values) * shape.head_dim_v)));
}

LayerCalibrator::LayerCalibrator(int layer, int n_q_heads, int n_kv_heads, int head_dim_k, int head_dim_v,
                                 const RopeParams& rope) {
  LayerProfile shape;
  shape.layer = layer;
  shape.n_q_heads = n_q_heads;
  shape.n_kv_heads = n_kv_heads;
  shape.head_dim_k = head_dim_k;
  shape.head_dim_v = head_dim_v;
  shape.rope = rope;
  const std::string problem = shape_problem(shape);
  if (!problem.empty()) throw Error(fmt::format("cannot calibrate this model: {}", problem));
  impl_ = std::make_unique<Impl>(std::move(shape), rope);
}

LayerCalibrator::~LayerCalibrator() = default;
LayerCalibrator::LayerCalibrator(LayerCalibrator&&) noexcept = default;

void LayerCalibrator::add_query(const float* q) {
  const LayerProfile& shape = impl_->shape;
  const Rope& rope = impl_->rope;
  const int group_size = shape.n_q_heads / shape.n_kv_heads;
  for (int h = 0; h < shape.n_q_heads; ++h, q += shape.head_dim_k) {
    double* sums = &impl_->sum_q[h / group_size * rope.n_blocks()];
    for (int i = 0; i < rope.n_blocks(); ++i) {
      const double x = q[rope.first(i)], y = q[rope.second(i)];
      sums[i] += x * x + y * y;
    }
  }
  ++impl_->n_queries;
}

void LayerCalibrator::add_key(const float* k, std::int32_t position) {
  const LayerProfile& shape = impl_->shape;
  const std::size_t begin = impl_->keys.size();
  const auto n = static_cast<std::size_t>(shape.n_kv_heads * shape.head_dim_k);
  impl_->keys.insert(impl_->keys.end(), k, k + n);
  for (int h = 0; h < shape.n_kv_heads; ++h) {
    float* key = impl_->keys.data() + begin + h * shape.head_dim_k;
    impl_->rope.rotate(key, -static_cast<std::int64_t>(position), key);
  }
  impl_->first_tokens.push_back(position == 0 ? 1 : 0);
}

void LayerCalibrator::add_value(const float* v) {
  const LayerProfile& shape = impl_->shape;
  for (int h = 0; h < shape.n_kv_heads; ++h) {
    for (int d = 0; d < shape.head_dim_v; ++d, ++v) impl_->sum_v[h] += static_cast<double>(*v) * *v;
  }
  ++impl_->n_values;
}

std::int64_t LayerCalibrator::n_tokens() const { return impl_->n_keys(); }

LayerProfile LayerCalibrator::finish() const {
  impl_->check_complete();
  LayerProfile out = impl_->shape;
  const auto n_heads = static_cast<std::size_t>(out.n_kv_heads);
  const std::size_t n_energies = n_heads * impl_->rope.n_blocks();
  for (auto* energies : {&out.energy_q, &out.energy_k, &out.energy_e}) energies->resize(n_energies);
  out.mean_keys.resize(kMeans * n_heads * out.head_dim_k);
  out.rms_v.resize(n_heads);
  for (int head = 0; head < out.n_kv_heads; ++head) impl_->finish_head(head, out);
  const std::string problem = layer_problem(out);
  if (!problem.empty()) {
    throw Error(fmt::format("calibration failed ({}): check the model or use another text", problem));
  }
  return out;
}

}  // namespace gtq
