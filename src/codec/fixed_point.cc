#include "codec/fixed_point.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdlib>

namespace gtq {
namespace {

constexpr float kLargestFixed = (1 << kFixedBits) - 1;

// Rounds |x| < 2^22 to nearest, to even on a tie: a sum as large as this has no fraction.
float to_integer(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

UpperCodebook make_upper_codebook(int width) {
  UpperCodebook book{1 << (width - 1), codebook_step(width), {}, {}, {}};
  const std::int8_t* levels = codebook_levels(width) + book.n_levels;
  for (int i = 0; i < book.n_levels; ++i) book.levels[i] = static_cast<std::uint8_t>(levels[i]);
  for (int i = 0; i + 1 < book.n_levels; ++i) {
    const double middle = 0.5 * (levels[i] + levels[i + 1]) * static_cast<double>(book.step);
    book.rises[i] = static_cast<std::int16_t>(levels[i + 1] - levels[i]);
    book.thresholds[i] = static_cast<std::int16_t>(std::lround(kScaledOne * middle));
  }
  return book;
}

// Loops over all numbers, one after another: compilers make vectors of them.
void scale_by_norm(const std::int16_t* f, int n, int multiplier, std::int16_t* scaled) {
  constexpr int kHalf = 1 << (kFixedBits - 1);
  for (int i = 0; i < n; ++i) {
    scaled[i] = static_cast<std::int16_t>((std::abs(f[i]) * multiplier + kHalf) >> kFixedBits);
  }
}

// out[i] = first, plus rises[t] for each threshold t below number i.
void climb(const UpperCodebook& book, const std::int16_t* scaled, int n, int first, const std::int16_t* rises,
           std::int16_t* out) {
  std::fill(out, out + n, static_cast<std::int16_t>(first));
  for (int t = 0; t + 1 < book.n_levels; ++t) {
    const std::int16_t threshold = book.thresholds[t], rise = rises[t];
    for (int i = 0; i < n; ++i) {
      const std::int16_t added = scaled[i] > threshold ? rise : std::int16_t{0};
      out[i] = static_cast<std::int16_t>(out[i] + added);
    }
  }
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
    const float f = to_integer(y[i] * scale);
    out->f[i] = static_cast<std::int16_t>(std::clamp(f, -kLargestFixed, kLargestFixed));
  }
}

int norm_multiplier(float unit, float inverse_norm) {
  const float m = static_cast<float>(kScaledOne << kFixedBits) * unit * inverse_norm;
  return static_cast<int>(to_integer(std::min(m, kLargestFixed)));
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
  std::int16_t scaled[kMaxHeadDim], levels[kMaxHeadDim];
  scale_by_norm(f, n, multiplier, scaled);
  climb(book, scaled, n, book.levels[0], book.rises, levels);
  std::uint32_t yc = 0, cc = 0;
  for (int i = 0; i < n; ++i) {
    yc += static_cast<std::uint32_t>(std::abs(f[i]) * levels[i]);
    cc += static_cast<std::uint32_t>(levels[i] * levels[i]);
  }
  return {yc, cc};
}

std::uint64_t sum_squares(const std::int16_t* f, int n) {
  std::uint64_t sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<std::uint64_t>(f[i] * f[i]);
  return sum;
}

void find_codes(const UpperCodebook& book, const std::int16_t* f, int n, int multiplier, std::uint8_t* codes) {
  std::int16_t ones[31];
  std::fill(ones, ones + 31, std::int16_t{1});
  std::int16_t scaled[kMaxHeadDim], indices[kMaxHeadDim];
  scale_by_norm(f, n, multiplier, scaled);
  climb(book, scaled, n, 0, ones, indices);
  for (int i = 0; i < n; ++i) {
    const int code = f[i] > 0 ? book.n_levels + indices[i] : book.n_levels - 1 - indices[i];
    codes[i] = static_cast<std::uint8_t>(code);
  }
}

}  // namespace gtq
