// Dequantized tiles against the decoder in double on the same token rows.
#include "cuda/gpu.h"
#include "reference/half.h"

namespace gtq::test {
namespace {

void check_tile(unsigned seed, int dim_k, int dim_v, const Budget& budget) {
  Random random(seed);
  const int n_heads = 2;
  const LayerProfile layer = random_layer(random, 4, n_heads, dim_k, dim_v, 0.5f);
  const LayerCodec codec(layer, budget);
  const cuda::Layer tables(codec);
  constexpr std::int64_t kFirst = 64, kCount = 150, kAll = 256, kFirstPage = 1;
  DeviceCache cache(codec, kFirstPage + 4);
  const TokenRows rows = random_token_rows(random, codec, kAll, true);
  std::vector<std::int64_t> cells;
  std::vector<std::int32_t> positions(5 * kPageTokens, kEmptyCell);
  for (std::int64_t j = 0; j < kAll; ++j) {
    cells.push_back(kFirstPage * kPageTokens + j);
    positions[cells.back()] = j == 70 ? kEmptyCell : random_int(random, 0, 100000);
  }
  cache.set_positions(positions);
  const DeviceArray<std::int64_t> device_cells(cells);
  const DeviceArray<std::uint8_t> key_rows(rows.keys), value_rows(rows.values);
  cuda::scatter_rows(tables, cache.view(), device_cells.data(), kAll, key_rows.data(), value_rows.data(),
                     nullptr);
  DeviceArray<std::uint16_t> keys(n_heads * kCount * dim_k), values(n_heads * kCount * dim_v);
  keys.fill(0xff);
  values.fill(0xff);
  cuda::dequantize(tables, cache.view(), kFirstPage, kFirst, kCount, keys.data(), values.data(), nullptr);
  std::vector<float> got_keys, got_values;
  for (const std::uint16_t x : keys.download())
    got_keys.push_back(static_cast<float>(reference::half_to_double(x)));
  for (const std::uint16_t x : values.download())
    got_values.push_back(static_cast<float>(reference::half_to_double(x)));
  std::vector<double> want_keys(got_keys.size()), want_values(got_values.size());
  const std::uint8_t *key = rows.keys.data(), *value = rows.values.data();
  for (std::int64_t j = 0; j < kAll; ++j) {
    for (int h = 0; h < n_heads; ++h) {
      const std::int32_t position = positions[kFirstPage * kPageTokens + j];
      if (j >= kFirst && j < kFirst + kCount && position != kEmptyCell) {
        const std::vector<double> k = reference::decode_key(codec.plan(h), layer.rope, key, position);
        const std::vector<double> v = reference::decode_value(codec.plan(h), value);
        std::copy(k.begin(), k.end(), &want_keys[(h * kCount + j - kFirst) * dim_k]);
        std::copy(v.begin(), v.end(), &want_values[(h * kCount + j - kFirst) * dim_v]);
      }
      key += codec.key_codec(h).row_bytes();
      value += codec.value_codec(h).row_bytes();
    }
  }
  EXPECT_LT(relative_l2(got_keys, want_keys), 4e-4) << seed;  // f16 rounding is 2e-4
  EXPECT_LT(relative_l2(got_values, want_values), 4e-4) << seed;
}

TEST(CudaDequantize, AgreesWithOracle) {
  GTQ_NEEDS_GPU();
  const int dims[] = {64, 96, 128, 256};
  for (unsigned seed = 0; seed < 12; ++seed) {
    check_tile(seed, dims[seed % 4], dims[seed / 3], Budget{1.0 + seed % 6, 6.0 - seed % 6});
  }
}

}  // namespace
}  // namespace gtq::test
