// Codebooks and the sign generator: constants of the format (docs/format.md). The levels are the Lloyd-Max
// centroids of a unit Gaussian divided by the step and rounded; tests/reference recomputes them.
#include <array>
#include <cmath>

#include "gtq/codec.h"
#include "gtq/error.h"

namespace gtq {
namespace {

constexpr int kMaxLevels = 1 << kMaxWidth;

struct Codebook {
  float step;
  // Upper half, ascending; the lower half mirrors it.
  std::array<std::int8_t, kMaxLevels / 2> upper;
};

constexpr std::array<Codebook, kMaxWidth> kCodebooks = {{
    {0x1.9bbbcap-8f, {127}},
    {0x1.85b626p-7f, {38, 127}},
    {0x1.159e32p-6f, {14, 45, 79, 127}},
    {0x1.60868cp-6f, {6, 18, 31, 44, 58, 75, 96, 127}},
    {0x1.a4a9p-6f, {3, 8, 13, 18, 24, 29, 35, 41, 47, 54, 61, 70, 79, 90, 105, 127}},
    {0x1.e304cp-6f, {1,  3,  6,  8,  10, 13, 15, 17, 20, 22, 24, 27, 30, 32, 35,  38,
                     40, 43, 46, 49, 53, 56, 60, 64, 68, 73, 78, 84, 91, 99, 110, 127}},
}};

using LevelTable = std::array<std::array<std::int8_t, kMaxLevels>, kMaxWidth>;

constexpr LevelTable make_levels() {
  LevelTable table{};
  for (int width = 1; width <= kMaxWidth; ++width) {
    const int half = 1 << (width - 1);
    for (int i = 0; i < half; ++i) {
      const std::int8_t level = kCodebooks[width - 1].upper[i];
      table[width - 1][half + i] = level;
      table[width - 1][half - 1 - i] = static_cast<std::int8_t>(-level);
    }
  }
  return table;
}

constexpr LevelTable kLevels = make_levels();

void check_width(int width) {
  if (width < kMinWidth || width > kMaxWidth) throw Error("a code width must be 1 to 6 bits");
}

// splitmix64's output function (Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
  return z ^ (z >> 31);
}

}  // namespace

const std::int8_t* codebook_levels(int width) {
  check_width(width);
  return kLevels[width - 1].data();
}

float codebook_step(int width) {
  check_width(width);
  return kCodebooks[width - 1].step;
}

float rotation_sign(int stream, int i) {
  const auto counter = static_cast<std::uint64_t>(i) + 1 + 1000003ull * static_cast<std::uint64_t>(stream);
  return (mix(0x9E3779B97F4A7C15ull * counter) >> 63) != 0 ? -1.0f : 1.0f;
}

}  // namespace gtq
