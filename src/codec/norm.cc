// Norm bytes: logarithmic, 1/16 octave per step.
#include "codec/norm.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "gtq/codec.h"

namespace gtq {
namespace {

constexpr int kKeyBias = 48;     // 2^-3 .. 2^4.9 of the calibrated residual
constexpr int kValueBias = 160;  // 2^-9.9 .. 2^5.9 of the calibrated rms
constexpr int kStepsPerOctave = 16;

float from_code(int code, int bias) {
  return std::exp2(static_cast<float>(code - bias) / static_cast<float>(kStepsPerOctave));
}

int to_code(float norm, int bias, int lowest, int highest) {
  if (!(norm > 0.0f)) return lowest;
  const float code =
      std::round(static_cast<float>(kStepsPerOctave) * std::log2(norm)) + static_cast<float>(bias);
  return static_cast<int>(std::clamp(code, static_cast<float>(lowest), static_cast<float>(highest)));
}

}  // namespace

float key_norm(std::uint8_t norm_byte) {
  static const auto norms = [] {
    std::array<float, 128> all{};
    for (int code = 0; code < 128; ++code) all[code] = from_code(code, kKeyBias);
    return all;
  }();
  return norms[norm_byte & 127];
}
int key_mean_index(std::uint8_t norm_byte) { return norm_byte >> 7; }
float value_norm(std::uint8_t norm_byte) { return norm_byte == 0 ? 0.0f : from_code(norm_byte, kValueBias); }

int key_norm_code(float norm) { return to_code(norm, kKeyBias, 0, 127); }
std::uint8_t value_norm_byte(float norm) {
  return norm > 0.0f ? static_cast<std::uint8_t>(to_code(norm, kValueBias, 1, 255)) : 0;
}

}  // namespace gtq
