// A random cache of one or more sequences on the GPU, queries, and what attention in double over the decoded
// token rows makes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "cuda/gpu.h"
#include "reference/half.h"

namespace gtq::test {

inline constexpr std::uint16_t kHalfMinusInfinity = 0xfc00;

struct AttentionShape {
  int head_dim_k, head_dim_v, n_q_heads, n_kv_heads, n_rows;
  std::vector<std::int64_t> kv_lens;  // per sequence
  Budget budget;
  float centred_share = 0.5f;
  bool slow_means = false;  // only rope_blocks that turn by less than 0.0178 in half a page may be centred
  bool paged = true;
  bool with_positions = false;  // positions that jump, empty cells
  bool mixed_means = false;
  bool with_mask = false, with_sinks = false;
  bool causal = false;     // by itself, on top of a mask
  int window = 0;          // the mask: 0 for so many cells before a row's own, -inf else
  bool blind_row = false;  // the mask excludes all cells of row 1
  float softcap = 0, alibi = 0, q_sigma = 1;
  int repeats = 1;  // the whole pages of a sequence follow each other so often: the output stays the same
};

// A shape with a mask, then sinks, a softcap and ALiBi on top, the last one without a page table.
inline std::vector<AttentionShape> shaped_variants(AttentionShape shape) {
  std::vector<AttentionShape> variants;
  shape.with_mask = true;
  variants.push_back(shape);
  shape.with_sinks = true;
  variants.push_back(shape);
  shape.softcap = 5;
  variants.push_back(shape);
  shape.alibi = 8;
  variants.push_back(shape);
  shape.paged = false;
  variants.push_back(shape);
  return variants;
}

inline LayerProfile make_layer(Random& random, const AttentionShape& shape) {
  LayerProfile layer = random_layer(random, shape.n_q_heads, shape.n_kv_heads, shape.head_dim_k,
                                    shape.head_dim_v, shape.centred_share);
  if (!shape.slow_means) return layer;
  const Rope rope(shape.head_dim_k, layer.rope);
  for (std::size_t i = 0; i < layer.energy_k.size(); ++i) {
    const int block = static_cast<int>(i) % (shape.head_dim_k / 2);
    if (rope.theta(block) * 31.5 >= 0.0178) layer.energy_k[i] = layer.energy_e[i];
  }
  return layer;
}

class AttentionCase {
 public:
  AttentionCase(const AttentionShape& shape, unsigned seed)
      : random_(seed),
        shape_(shape),
        layer_(make_layer(random_, shape)),
        codec_(layer_, shape.budget),
        tables_(codec_) {
    batch_ = static_cast<int>(shape.kv_lens.size());
    longest_ = *std::max_element(shape.kv_lens.begin(), shape.kv_lens.end());
    for (const std::int64_t n : shape.kv_lens) n_pages_.push_back((n + kPageTokens - 1) / kPageTokens);
    pages_per_sequence_ = (longest_ + kPageTokens - 1) / kPageTokens;
    make_pages();
    fill_cache();
    for (std::int64_t i = 0; i < batch_ * shape.n_rows * shape.n_q_heads * shape.head_dim_k; ++i) {
      q_.push_back(random_normal(random_, shape.q_sigma));
    }
    if (shape.with_mask) make_mask();
    for (int h = 0; h < shape.n_q_heads && shape.with_sinks; ++h)
      sinks_.push_back(random_normal(random_, 2.0f));
  }

  // in_f16: queries, keys and values are rounded to f16 first.
  std::vector<double> expected(bool in_f16 = false) const {
    std::vector<double> all;
    for (int b = 0; b < batch_; ++b) {
      reference::AttentionInput input = reference_input(b);
      if (in_f16) {
        for (std::vector<double>* numbers : {&input.q, &input.keys, &input.values}) {
          for (double& x : *numbers) x = std::copysign(reference::round_to_half(std::abs(x)), x);
        }
      }
      const std::vector<double> one = reference::attention(input);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

 protected:
  float sm_scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim_k)); }
  std::size_t out_size() const {
    return static_cast<std::size_t>(batch_) * shape_.n_rows * shape_.n_q_heads * shape_.head_dim_v;
  }
  std::int64_t mask_stride() const { return longest_ + longest_ % 2; }
  cuda::Cache cache_view() const {
    cuda::Cache view = cache_->view();
    if (!shape_.with_positions) view.positions = nullptr, view.summaries = nullptr;
    return view;
  }

  void make_pages() {
    const std::int64_t n = shape_.paged ? std::accumulate(n_pages_.begin(), n_pages_.end(), std::int64_t{0}) + 3
                                        : pages_per_sequence_ * batch_;
    std::vector<std::int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    if (shape_.paged) std::shuffle(order.begin(), order.end(), random_);
    indptr_.push_back(0);
    std::size_t next = 0;
    for (int b = 0; b < batch_; ++b) {
      if (!shape_.paged) next = static_cast<std::size_t>(b * pages_per_sequence_);
      for (int repeat = 0; repeat < shape_.repeats; ++repeat) {
        for (std::int64_t i = 0; i < n_pages_[b]; ++i) indices_.push_back(order[next + i]);
      }
      next += n_pages_[b];
      indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
      last_page_len_.push_back(static_cast<std::int32_t>((shape_.kv_lens[b] - 1) % kPageTokens + 1));
    }
    cache_ = std::make_unique<DeviceCache>(codec_, n);
    n_physical_ = n;
  }

  std::vector<std::int32_t> make_positions(std::int64_t n) {
    std::vector<std::int32_t> positions = consecutive(n, 0);
    if (!shape_.with_positions) return positions;
    const std::int32_t start = random_int(random_, 0, 1) == 0 ? 0 : random_int(random_, 0, 100000);
    for (std::int64_t j = 0; j < n; ++j) {
      positions[j] += start;
      if (j / kPageTokens % 3 == 1 && random_int(random_, 0, 9) == 0)
        positions[j] = random_int(random_, 0, 5000);
      if (random_int(random_, 0, 19) == 0) positions[j] = kEmptyCell;
    }
    return positions;
  }

  void fill_cache() {
    std::vector<std::int32_t> cell_positions(n_physical_ * kPageTokens, kEmptyCell);
    for (int b = 0; b < batch_; ++b) {
      const std::int64_t n = shape_.kv_lens[b];
      rows_.push_back(random_token_rows(random_, codec_, n, shape_.mixed_means));
      positions_.push_back(make_positions(n));
      std::vector<std::int64_t> cells;
      for (std::int64_t j = 0; j < n; ++j) {
        cells.push_back(static_cast<std::int64_t>(indices_[indptr_[b] + j / kPageTokens]) * kPageTokens +
                        j % kPageTokens);
        cell_positions[cells.back()] = positions_[b][j];
      }
      const DeviceArray<std::int64_t> device_cells(cells);
      const DeviceArray<std::uint8_t> keys(rows_[b].keys), values(rows_[b].values);
      cuda::scatter_rows(tables_, cache_->view(), device_cells.data(), n, keys.data(), values.data(), nullptr);
      expect_ok(cudaDeviceSynchronize());
    }
    cache_->set_positions(cell_positions);
    cuda::summarize(cache_->view(), 0, n_physical_, nullptr);
  }

  void make_mask() {
    const std::int64_t stride = mask_stride();
    mask_.assign(static_cast<std::size_t>(batch_ * shape_.n_rows * stride), kHalfMinusInfinity);
    for (int b = 0; b < batch_; ++b) {
      for (int r = 0; r < shape_.n_rows; ++r) {
        for (std::int64_t j = 0; j < shape_.kv_lens[b]; ++j) {
          const std::int64_t own = shape_.kv_lens[b] - shape_.n_rows + r;
          if (j > own || (shape_.blind_row && r == 1)) continue;
          std::uint16_t& bias = mask_[(b * shape_.n_rows + r) * stride + j];
          if (shape_.window > 0) {
            if (j > own - shape_.window) bias = 0;
          } else if (random_int(random_, 0, 6) != 0) {
            bias = static_cast<std::uint16_t>(0x8000 | random_int(random_, 0, 0x4000));
          }
        }
      }
    }
  }

  reference::AttentionInput reference_input(int b) const {
    const std::int64_t n = shape_.kv_lens[b];
    reference::AttentionInput input;
    input.n_q_heads = shape_.n_q_heads;
    input.n_kv_heads = shape_.n_kv_heads;
    input.head_dim_k = shape_.head_dim_k;
    input.head_dim_v = shape_.head_dim_v;
    input.n_rows = shape_.n_rows;
    input.kv_len = n;
    const std::int64_t n_q = static_cast<std::int64_t>(shape_.n_rows) * shape_.n_q_heads * shape_.head_dim_k;
    input.q.assign(q_.begin() + b * n_q, q_.begin() + (b + 1) * n_q);
    input.keys.resize(shape_.n_kv_heads * n * shape_.head_dim_k);
    input.values.resize(shape_.n_kv_heads * n * shape_.head_dim_v);
    input.mask.assign(shape_.n_rows * n, 0);
    input.sinks.assign(sinks_.begin(), sinks_.end());
    input.sm_scale = sm_scale();
    input.logit_softcap = shape_.softcap;
    input.alibi_max_bias = shape_.alibi;
    const std::uint8_t *key = rows_[b].keys.data(), *value = rows_[b].values.data();
    for (std::int64_t j = 0; j < n; ++j) {
      for (int r = 0; r < shape_.n_rows; ++r) {
        std::uint16_t& bias = input.mask[r * n + j];
        if (shape_.with_mask) bias = mask_[(b * shape_.n_rows + r) * mask_stride() + j];
        const bool is_behind = shape_.causal && j > n - shape_.n_rows + r;
        if (positions_[b][j] == kEmptyCell || is_behind) bias = kHalfMinusInfinity;
      }
      for (int h = 0; h < shape_.n_kv_heads; ++h) {
        const std::vector<double> k =
            reference::decode_key(codec_.plan(h), layer_.rope, key, std::max(positions_[b][j], 0));
        const std::vector<double> v = reference::decode_value(codec_.plan(h), value);
        std::copy(k.begin(), k.end(), &input.keys[(h * n + j) * shape_.head_dim_k]);
        std::copy(v.begin(), v.end(), &input.values[(h * n + j) * shape_.head_dim_v]);
        key += codec_.key_codec(h).row_bytes();
        value += codec_.value_codec(h).row_bytes();
      }
    }
    return input;
  }

  Random random_;
  AttentionShape shape_;
  LayerProfile layer_;
  LayerCodec codec_;
  cuda::Layer tables_;
  int batch_ = 0;
  std::int64_t longest_ = 0, pages_per_sequence_ = 0, n_physical_ = 0;
  std::vector<std::int64_t> n_pages_;
  std::vector<std::int32_t> indptr_, indices_, last_page_len_;
  std::vector<TokenRows> rows_;
  std::vector<std::vector<std::int32_t>> positions_;
  std::vector<float> q_, sinks_;
  std::vector<std::uint16_t> mask_;
  std::unique_ptr<DeviceCache> cache_;
};

}  // namespace gtq::test
