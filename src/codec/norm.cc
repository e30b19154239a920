// Norm bytes: logarithmic, 1/16 octave per step.
#include "codec/norm.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "gtq/codec.h"

namespace gtq {
namespace {

constexpr int kKeyBias = 48;     // 2^-3 .. 2^4.9 of the calibrated residual
constexpr int kValueBias = 160;  // 2^-9.9 .. 2^5.9 of the calibrated rms
constexpr int kStepsPerOctave = 16;

float from_code(int code, int bias) {
  return std::exp2(static_cast<float>(code - bias) / static_cast<float>(kStepsPerOctave));
}

// What a code is by definition; norm > 0.
int to_code(float norm, int bias, int lowest, int highest) {
  const float code =
      std::round(static_cast<float>(kStepsPerOctave) * std::log2(norm)) + static_cast<float>(bias);
  return static_cast<int>(std::clamp(code, static_cast<float>(lowest), static_cast<float>(highest)));
}

// The same without a logarithm: a grid over the floats of which no cell holds two boundaries between codes, so
// a code is that of the start of its cell, plus one comparison.
class NormGrid {
 public:
  NormGrid(int bias, int lowest, int highest);

  // The lowest one for NaN.
  int code(float norm) const {
    norm = norm > kFirst ? norm : kFirst;
    norm = norm < kLast ? norm : kLast;
    const int first = first_code_[(std::bit_cast<std::uint32_t>(norm) - kFirstBits) >> kCellShift];
    return first + (norm >= starts_[first + 1] ? 1 : 0);
  }
  // Whether norms up to `high` have the code of a lower one.
  bool holds(int code, float high) const { return high < starts_[code + 1]; }

 private:
  // Norms outside are coded as the ends. Positive floats ascend as their bits do; with 5 bits of the mantissa a
  // cell is at most 1/32 wide, and a code 1/23.
  static constexpr float kFirst = 0x1p-11f, kLast = 0x1p7f;
  static constexpr std::uint32_t kFirstBits = std::bit_cast<std::uint32_t>(kFirst);
  static constexpr int kCellShift = 18;
  static constexpr std::uint32_t kCells = 18 * 32 + 1;

  std::array<std::uint8_t, kCells> first_code_{};
  std::array<float, 257> starts_{};  // smallest norm of each code
};

NormGrid::NormGrid(int bias, int lowest, int highest) {
  const auto code_at = [&](std::uint32_t bits) {
    return to_code(std::bit_cast<float>(bits), bias, lowest, highest);
  };
  for (std::uint32_t cell = 0; cell < kCells; ++cell) {
    first_code_[cell] = static_cast<std::uint8_t>(code_at(kFirstBits + (cell << kCellShift)));
  }
  starts_.fill(std::numeric_limits<float>::infinity());
  for (int code = lowest; code <= highest; ++code) {
    std::uint32_t low = kFirstBits, high = std::bit_cast<std::uint32_t>(kLast);
    while (low < high) {
      const std::uint32_t middle = low + (high - low) / 2;
      if (code_at(middle) < code) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    starts_[code] = std::bit_cast<float>(low);
  }
}

struct KeyNorms {
  NormGrid grid;
  std::array<float, 128> norm, inverse;
};

const KeyNorms& key_norms() {
  static const KeyNorms all = [] {
    KeyNorms norms{NormGrid(kKeyBias, 0, 127), {}, {}};
    for (int code = 0; code < 128; ++code) {
      norms.norm[code] = from_code(code, kKeyBias);
      norms.inverse[code] = 1.0f / norms.norm[code];
    }
    return norms;
  }();
  return all;
}

}  // namespace

float key_norm(std::uint8_t norm_byte) { return key_norms().norm[norm_byte & 127]; }
int key_mean_index(std::uint8_t norm_byte) { return norm_byte >> 7; }
float value_norm(std::uint8_t norm_byte) { return norm_byte == 0 ? 0.0f : from_code(norm_byte, kValueBias); }

int key_norm_code(float norm) { return key_norms().grid.code(norm); }
std::uint8_t value_norm_byte(float norm) {
  static const NormGrid grid(kValueBias, 1, 255);
  return norm > 0.0f ? static_cast<std::uint8_t>(grid.code(norm)) : std::uint8_t{0};
}

namespace {

void try_around(const KeyNorms& norms, int middle, float* inverse) {
  for (int t = 0; t < kTriedNorms; ++t) {
    inverse[t] = norms.inverse[std::clamp(middle + 2 * (t - kTriedNorms / 2), 0, 127)];
  }
}

}  // namespace

void try_norms(float rms, float* inverse) {
  const KeyNorms& norms = key_norms();
  try_around(norms, norms.grid.code(rms), inverse);
}

bool try_norms_surely(float rms, float error, float* inverse) {
  const KeyNorms& norms = key_norms();
  const int middle = norms.grid.code(rms - rms * error);
  if (!norms.grid.holds(middle, rms + rms * error)) return false;
  try_around(norms, middle, inverse);
  return true;
}

NormChoice choose_norm(const NormFit& fit) {
  const KeyNorms& norms = key_norms();
  NormChoice best{0, 0};
  float best_error = std::numeric_limits<float>::infinity();
  for (int t = 0; t < kTriedNorms; ++t) {
    // Least squares: the norm that fits these codes best, on the grid of the norm byte.
    const int code = norms.grid.code(fit.yc[t] / fit.cc[t]);
    const float fitted = norms.norm[code];
    const float error = fit.yy - 2 * fitted * fit.yc[t] + fitted * fitted * fit.cc[t];
    if (error < best_error) {
      best_error = error;
      best = {t, code};
    }
  }
  return best;
}

bool choose_norm_surely(const NormFit& fit, float error, NormChoice* best) {
  const KeyNorms& norms = key_norms();
  constexpr float kRounding = 0x1p-21f;  // of the few operations here and there
  float low[kTriedNorms];                // bounds of errors, y y left out: it is the same for all
  float least_high = std::numeric_limits<float>::infinity();
  int tried = 0, codes[kTriedNorms];
  for (int t = 0; t < kTriedNorms; ++t) {
    const float ratio = fit.yc[t] / fit.cc[t], ratio_error = ratio * (2 * error + kRounding);
    const int code = norms.grid.code(ratio - ratio_error);
    if (!norms.grid.holds(code, ratio + ratio_error)) return false;
    const float fitted = norms.norm[code];
    const float cross = 2 * fitted * fit.yc[t], square = fitted * fitted * fit.cc[t];
    const float slack = error * (cross + square) + kRounding * (fit.yy + cross + square);
    low[t] = square - cross - slack;
    const float high = square - cross + slack;
    const bool better = high < least_high;  // without a branch, which would be guessed wrong
    least_high = better ? high : least_high;
    tried = better ? t : tried;
    codes[t] = code;
  }
  *best = {tried, codes[tried]};
  int n_possible = 0;
  for (const float bound : low) n_possible += bound <= least_high ? 1 : 0;
  return n_possible == 1;
}

}  // namespace gtq
