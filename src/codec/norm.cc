// Norm bytes: logarithmic, 1/16 octave per step.
#include "codec/norm.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "codec/fixed_point.h"
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
  const double code = std::round(kStepsPerOctave * std::log2(static_cast<double>(norm))) + bias;
  return static_cast<int>(std::clamp(code, 1.0 * lowest, 1.0 * highest));
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
  float start(int code) const { return starts_[code]; }

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

struct Norms {
  NormGrid grid;
  int lowest, highest;
  std::array<float, 256> norm{}, inverse{};

  Norms(int bias, int first, int last) : grid(bias, first, last), lowest(first), highest(last) {
    for (int code = first; code <= last; ++code) {
      norm[code] = from_code(code, bias);
      inverse[code] = 1.0f / norm[code];
    }
  }
};

const Norms& key_norms() {
  static const Norms norms(kKeyBias, 0, 127);
  return norms;
}

const Norms& value_norms() {
  static const Norms norms(kValueBias, 1, 255);
  return norms;
}

void try_norms(const Norms& norms, float rms, float unit, int* multipliers) {
  const int middle = norms.grid.code(rms);
  for (int t = 0; t < kTriedNorms; ++t) {
    const int code = std::clamp(middle + 2 * (t - kTriedNorms / 2), norms.lowest, norms.highest);
    multipliers[t] = norm_multiplier(unit, norms.inverse[code]);
  }
}

}  // namespace

float key_norm(std::uint8_t norm_byte) { return key_norms().norm[norm_byte & 127]; }
int key_mean_index(std::uint8_t norm_byte) { return norm_byte >> 7; }
float value_norm(std::uint8_t norm_byte) { return value_norms().norm[norm_byte]; }

int key_norm_code(float norm) { return key_norms().grid.code(norm); }
std::uint8_t value_norm_byte(float norm) {
  return norm > 0.0f ? static_cast<std::uint8_t>(value_norms().grid.code(norm)) : std::uint8_t{0};
}
float key_norm_start(int code) { return key_norms().grid.start(code); }
float value_norm_start(int code) { return value_norms().grid.start(code); }

void try_key_norms(float rms, float unit, int* multipliers) { try_norms(key_norms(), rms, unit, multipliers); }
void try_value_norms(float rms, float unit, int* multipliers) {
  try_norms(value_norms(), rms, unit, multipliers);
}

NormChoice choose_key_norm(const KeyFit& fit, float unit) {
  const Norms& norms = key_norms();
  NormChoice best{0, 0};
  float best_error = std::numeric_limits<float>::infinity();
  for (int t = 0; t < kTriedNorms; ++t) {
    // Least squares: the norm that fits these codes best, on the grid of the norm byte.
    const int code = norms.grid.code(fit.yc[t] / fit.cc[t] * unit);
    const float fitted = norms.norm[code] / unit;
    const float error = fit.yy - 2 * fitted * fit.yc[t] + fitted * fitted * fit.cc[t];
    if (error < best_error) {
      best_error = error;
      best = {t, static_cast<std::uint8_t>(code)};
    }
  }
  return best;
}

NormChoice choose_value_norm(const ValueFit& fit, float unit, float step) {
  if (fit.yy == 0) return {0, 0};
  int best = 0;
  float best_cosine = 0;  // its square, times y y
  for (int t = 0; t < kTriedNorms; ++t) {
    const auto yc = static_cast<float>(fit.yc[t]);
    const float cosine = yc * yc / static_cast<float>(fit.cc[t]);
    if (cosine > best_cosine) {
      best_cosine = cosine;
      best = t;
    }
  }
  const float norm = static_cast<float>(fit.yy) / (static_cast<float>(fit.yc[best]) * step) * unit;
  return {best, value_norm_byte(norm)};
}

}  // namespace gtq
