#include "codec/fixed_point.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace gtq {
namespace {

constexpr float kLargestFixed = (1 << kFixedBits) - 1;

UpperCodebook make_upper_codebook(int width) {
  UpperCodebook book{1 << (width - 1), codebook_step(width), {}, {}};
  const std::int8_t* levels = codebook_levels(width) + book.n_levels;
  for (int i = 0; i < book.n_levels; ++i) book.levels[i] = static_cast<std::uint8_t>(levels[i]);
  for (int i = 0; i + 1 < book.n_levels; ++i) {
    const double middle = 0.5 * (levels[i] + levels[i + 1]) * static_cast<double>(book.step);
    book.thresholds[i] = static_cast<std::int16_t>(std::lround(kScaledOne * middle));
  }
  return book;
}

int index_of(const UpperCodebook& book, int f, int multiplier) {
  const int scaled = (std::abs(f) * multiplier + (1 << (kFixedBits - 1))) >> kFixedBits;
  int index = 0;
  for (int i = 0; i + 1 < book.n_levels; ++i) index += scaled > book.thresholds[i] ? 1 : 0;
  return index;
}

}  // namespace

float fixed_unit(float largest) {
  if (!(largest >= kNothing)) return 1.0f;
  const std::uint32_t power_below = std::bit_cast<std::uint32_t>(largest) & 0x7f800000;
  return std::bit_cast<float>(power_below) * (2.0f / (1 << kFixedBits));
}

void to_fixed(const float* y, int n, FixedVector* out) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, std::abs(y[i]));
  out->unit = fixed_unit(largest);
  const float scale = 1.0f / out->unit;
  for (int i = 0; i < n; ++i) {
    const float f = std::nearbyint(y[i] * scale);
    out->f[i] = static_cast<std::int16_t>(std::clamp(f, -kLargestFixed, kLargestFixed));
  }
}

int norm_multiplier(float unit, float inverse_norm) {
  const float m = static_cast<float>(kScaledOne << kFixedBits) * unit * inverse_norm;
  constexpr float kToInteger = 0x1.8p23f;  // a float this large has no fraction
  return static_cast<int>((std::min(m, kLargestFixed) + kToInteger) - kToInteger);
}

const UpperCodebook& UpperCodebook::of(int width) {
  static const auto all = [] {
    std::array<UpperCodebook, kMaxWidth> books{};
    for (int w = kMinWidth; w <= kMaxWidth; ++w) books[w - 1] = make_upper_codebook(w);
    return books;
  }();
  return all[width - 1];
}

void put_centroids(int width, const std::uint8_t* codes, int n, float* centroids) {
  const std::int8_t* levels = codebook_levels(width);
  const float step = codebook_step(width);
  for (int i = 0; i < n; ++i) centroids[i] = static_cast<float>(levels[codes[i]]) * step;
}

CodeSums sum_codes(const UpperCodebook& book, const std::int16_t* f, int n, int multiplier) {
  CodeSums sums{};
  for (int i = 0; i < n; ++i) {
    const int level = book.levels[index_of(book, f[i], multiplier)];
    sums.yc += static_cast<std::uint32_t>(std::abs(f[i]) * level);
    sums.cc += static_cast<std::uint32_t>(level * level);
  }
  return sums;
}

std::uint64_t sum_squares(const std::int16_t* f, int n) {
  std::uint64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<std::uint64_t>(f[i] * f[i]);
  return sum;
}

void find_codes(const UpperCodebook& book, const std::int16_t* f, int n, int multiplier, std::uint8_t* codes) {
  for (int i = 0; i < n; ++i) {
    const int index = index_of(book, f[i], multiplier);
    codes[i] = static_cast<std::uint8_t>(f[i] > 0 ? book.n_levels + index : book.n_levels - 1 - index);
  }
}

}  // namespace gtq
