#include "cpu/layer_tables.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace gtq::cpu {
namespace {

constexpr int kMinSmooth = 12;  // below this number of smooth rope_blocks polynomials cost more than they save

int round_up(int n, int multiple) { return (n + multiple - 1) / multiple * multiple; }

// Every other Chebyshev coefficient of f on [-1, 1], from `first` on, to out[order]: those of an even or an odd
// function.
template <class F>
void fit_chebyshev(F f, float sign, int first, float* out) {
  constexpr int kNodes = 64;
  for (int k = first; k < kChebyshev; k += 2) {
    double sum = 0;
    for (int n = 0; n < kNodes; ++n) {
      const double angle = std::numbers::pi * (n + 0.5) / kNodes;
      sum += f(std::cos(angle)) * std::cos(k * angle);
    }
    out[k] = sign * static_cast<float>((k == 0 ? 1.0 : 2.0) / kNodes * sum);
  }
}

// The code that a table finds in an index of six bits.
int code_in(int width, int table, int index) {
  constexpr int kFirstBit[4][kCodeTables] = {{}, {0, 1, 2, 3}, {0, 2}, {0, 3, 2}};
  if (width == 3 && table == 3) return (index & 3) | (index >> 5) << 2;
  return (index >> (width < 4 ? kFirstBit[width][table] : 0)) % (1 << width);
}

const CodeTable* code_tables() {
  static const auto tables = [] {
    std::array<CodeTable, kMaxWidth + 1> all{};
    for (int width = kMinWidth; width <= kMaxWidth; ++width) {
      for (int i = 0; i < 64; ++i) {
        const std::int8_t* levels = codebook_levels(width);
        all[width].bytes[i] = levels[code_in(width, 0, i)];
        for (int table = 0; table < kCodeTables; ++table) {
          all[width].biased[table][i] = static_cast<std::uint8_t>(levels[code_in(width, table, i)] + 128);
        }
      }
    }
    return all;
  }();
  return tables.data();
}

constexpr double kHalfSpan = (kPageCells - 1) / 2.0;

}  // namespace

HeadTableSet::HeadTableSet(const HeadPlan& plan, const Rope& rope, const KeyPageLayout& keys,
                           const ValuePageLayout& values) {
  HeadTables& t = tables_;
  t.head_dim_k = plan.head_dim_k;
  t.head_dim_v = plan.head_dim_v;
  t.widths = keys.widths.data();
  t.group_offset = keys.group_offset.data();
  t.half_bytes = keys.half_bytes;
  t.key_norm_offset = keys.norm_offset;
  t.value_norm_offset = values.norm_offset;
  t.v_width = plan.v_width;
  t.rotation_dims = plan.head_dim_v & -plan.head_dim_v;
  const float hadamard_16 = 0.25f;  // makes the transform of a quant_group orthonormal
  for (int slot = 0; slot < plan.head_dim_k; ++slot) {
    query_dims_.push_back(static_cast<std::uint16_t>(plan.dims[slot]));
    query_gain_.push_back(hadamard_16 * rotation_sign(0, slot) / plan.scale[slot] *
                          codebook_step(plan.widths[slot / kGroupDims]));
  }
  const float v_gain =
      plan.v_rms * codebook_step(plan.v_width) / std::sqrt(static_cast<float>(t.rotation_dims));
  for (int dim = 0; dim < plan.head_dim_v; ++dim) output_gain_.push_back(v_gain * rotation_sign(1, dim));
  t.query_dims = query_dims_.data();
  t.query_gain = query_gain_.data();
  t.output_gain = output_gain_.data();
  // A value's code 0 stands for 0, not for the power that its place demands; kernels see to that.
  for (int i = 0; i < 16; ++i) norms_.push_back(key_norm(static_cast<std::uint8_t>(i)));
  for (int i = 0; i < 16; ++i) norms_.push_back(value_norm(static_cast<std::uint8_t>(16 + i)) / 2);
  t.key_norms = norms_.data();
  t.value_norms = norms_.data() + 16;
  t.codes = code_tables();
  build_mean(plan, rope);
}

void HeadTableSet::build_mean(const HeadPlan& plan, const Rope& rope) {
  const auto radians = [&](int block) { return std::abs(rope.theta(block)) * kHalfSpan; };
  std::vector<int> fast, smooth;
  for (int i = 0; i < rope.n_blocks(); ++i) {
    if (plan.centred[i] == 0) continue;
    (radians(i) < kSmoothRadians ? smooth : fast).push_back(i);
  }
  std::ranges::stable_sort(smooth, std::greater{}, radians);
  if (static_cast<int>(smooth.size()) < kMinSmooth) {
    fast.insert(fast.end(), smooth.begin(), smooth.end());
    smooth.clear();
  }
  const int n_fast = static_cast<int>(fast.size()), n_smooth = static_cast<int>(smooth.size());
  const int fast_padded = round_up(n_fast, kPanel), n_padded = fast_padded + round_up(n_smooth, kPanel);
  mean_dims_.assign(2 * n_padded, 0);
  means_.assign(4 * n_padded, 0.0f);
  turns_.assign(n_padded, 0.0);
  for (int n = 0; n < n_fast + n_smooth; ++n) {
    const int block = n < n_fast ? fast[n] : smooth[n - n_fast];
    const int at = n < n_fast ? n : fast_padded + n - n_fast;
    const int dims[2] = {rope.first(block), rope.second(block)};
    for (int r = 0; r < 2; ++r) {
      mean_dims_[2 * at + r] = static_cast<std::uint16_t>(dims[r]);
      for (int c = 0; c < kMeans; ++c) {
        means_[2 * (c * n_padded + at) + r] = plan.mean_keys[c * plan.head_dim_k + dims[r]];
      }
    }
    turns_[at] = rope.theta(block) / (2 * std::numbers::pi);
  }

  const int fast_rows = round_up(n_fast, 2);
  const int n_basis = fast_rows + (n_smooth > 0 ? kChebyshev / 2 : 0);
  even_.assign(static_cast<std::size_t>(n_basis) * kHalfPage, 0.0f);
  odd_ = even_;
  for (int j = 0; j < kHalfPage; ++j) {
    const double x = j + 0.5;
    const std::size_t column = static_cast<std::size_t>(j / kPanel) * n_basis * kPanel + j % kPanel;
    for (int n = 0; n < n_fast; ++n) {
      even_[column + n * kPanel] = static_cast<float>(std::cos(rope.theta(fast[n]) * x));
      odd_[column + n * kPanel] = static_cast<float>(-std::sin(rope.theta(fast[n]) * x));
    }
    for (int k = 0; n_smooth > 0 && k < kChebyshev; ++k) {
      std::vector<float>& basis = k % 2 == 0 ? even_ : odd_;
      basis[column + (fast_rows + k / 2) * kPanel] = static_cast<float>(std::cos(k * std::acos(x / kHalfSpan)));
    }
  }
  const int n_high = round_up(
      static_cast<int>(std::ranges::count_if(smooth, [&](int block) { return radians(block) >= kLowRadians; })),
      4);
  const int n_low = round_up(n_smooth, 8) - n_high;
  all_orders_.assign(static_cast<std::size_t>(n_high) * kChebyshev, 0.0f);
  low_orders_.assign(static_cast<std::size_t>(n_low) / 2 * kChebyshev, 0.0f);
  for (int n = 0; n < n_smooth; ++n) {
    const double phi = rope.theta(smooth[n]) * kHalfSpan;
    std::array<float, kChebyshev> row;
    fit_chebyshev([phi](double u) { return std::cos(phi * u); }, 1.0f, 0, row.data());
    fit_chebyshev([phi](double u) { return std::sin(phi * u); }, -1.0f, 1, row.data());
    if (n < n_high) {
      std::ranges::copy(row, all_orders_.begin() + n * kChebyshev);
      continue;
    }
    const int low = n - n_high;
    float* to = &low_orders_[static_cast<std::size_t>(low / 2) * kChebyshev + low % 2 * 2];
    for (int order = 0; order < kChebyshev / 2; ++order) to[order / 2 * 4 + order % 2] = row[order];
  }
  tables_.mean = {
      n_fast,        n_smooth,           fast_padded,       n_padded,     mean_dims_.data(), means_.data(),
      turns_.data(), fast_rows,          n_basis,           even_.data(), odd_.data(),       n_high,
      n_low,         all_orders_.data(), low_orders_.data()};
}

}  // namespace gtq::cpu
