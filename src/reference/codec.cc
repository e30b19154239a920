#include "reference/codec.h"

#include <bit>
#include <cmath>

#include "reference/haar.h"
#include "reference/lloyd_max.h"
#include "reference/rotary.h"

namespace gtq::reference {
namespace {

constexpr int kCodesPerGroup = 16;
constexpr int kKeyNormZero = 48;     // code of norm 1
constexpr int kValueNormZero = 160;  // code of norm v_rms

std::vector<double> read_centroids(const std::uint8_t* bytes, int n_codes, int width) {
  const GridCodebook codebook = gaussian_grid_codebook(width);
  std::vector<double> centroids;
  for (const int code : read_codes(bytes, n_codes, width)) {
    centroids.push_back(codebook.levels[code] * static_cast<double>(codebook.step));
  }
  return centroids;
}

}  // namespace

double random_sign(int stream, int i) {
  const std::uint64_t number = i + 1 + 1000003 * static_cast<std::uint64_t>(stream);
  return splitmix64_mix(0x9E3779B97F4A7C15 * number) >> 63 != 0 ? -1 : 1;
}

std::vector<double> hadamard_transform(const std::vector<double>& x) {
  const std::size_t n = x.size();
  std::vector<double> y(n, 0.0);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) y[i] += std::popcount(i & j) % 2 != 0 ? -x[j] : x[j];
    y[i] /= std::sqrt(static_cast<double>(n));
  }
  return y;
}

std::vector<int> read_codes(const std::uint8_t* bytes, int n_codes, int width) {
  std::vector<int> codes(n_codes, 0);
  for (int bit = 0; bit < n_codes * width; ++bit) {
    const int value = bytes[bit / 8] >> (bit % 8) & 1;
    codes[bit / width] |= value << (bit % width);
  }
  return codes;
}

std::vector<double> decode_key(const HeadPlan& plan, const RopeParams& rope, const std::uint8_t* row,
                               std::int64_t position) {
  const double norm = std::exp2(((row[0] & 127) - kKeyNormZero) / 16.0);
  const int mean_index = row[0] >> 7;
  const auto mean_begin = plan.mean_keys.begin() + mean_index * plan.head_dim_k;
  const std::vector<double> mean(mean_begin, mean_begin + plan.head_dim_k);

  std::vector<double> key = rotate(mean, rope_blocks(plan.head_dim_k, rope), position);
  const std::uint8_t* bytes = row + 1;
  for (std::size_t g = 0; g < plan.widths.size(); ++g) {
    const int width = plan.widths[g];
    const std::vector<double> turned = hadamard_transform(read_centroids(bytes, kCodesPerGroup, width));
    for (int i = 0; i < kCodesPerGroup; ++i) {
      const int slot = static_cast<int>(g) * kCodesPerGroup + i;
      key[plan.dims[slot]] += norm * random_sign(0, slot) * turned[i] / static_cast<double>(plan.scale[slot]);
    }
    bytes += 2 * width;
  }
  return key;
}

std::vector<double> decode_value(const HeadPlan& plan, const std::uint8_t* row) {
  const int n = plan.head_dim_v;
  std::vector<double> value(n, 0.0);
  if (row[0] == 0) return value;
  const double norm = static_cast<double>(plan.v_rms) * std::exp2((row[0] - kValueNormZero) / 16.0);
  const std::vector<double> centroids = read_centroids(row + 1, n, plan.v_width);
  int part_dims = 1;
  while (n % (2 * part_dims) == 0) part_dims *= 2;
  for (int begin = 0; begin < n; begin += part_dims) {
    const auto first = centroids.begin() + begin;
    const std::vector<double> turned = hadamard_transform({first, first + part_dims});
    for (int i = 0; i < part_dims; ++i) value[begin + i] = norm * random_sign(1, begin + i) * turned[i];
  }
  return value;
}

}  // namespace gtq::reference
