#include <gtest/gtest.h>

#include "cpu/random_layer.h"

namespace gtq::test {
namespace {

using Rows = std::vector<std::vector<std::uint8_t>>;

Rows random_rows(Random& random, std::size_t n, std::size_t row_bytes) {
  Rows rows(n, std::vector<std::uint8_t>(row_bytes));
  for (auto& row : rows) {
    for (std::uint8_t& byte : row) byte = static_cast<std::uint8_t>(random());
  }
  return rows;
}

TEST(LayerCodec, StoresAndLoadsRowsBitExactly) {
  Random random(5);
  constexpr int kCells = 3 * kPageTokens;
  for (int round = 0; round < 60; ++round) {
    const int n_kv_heads = random_int(random, 1, 3);
    const int n_groups = random_int(random, 1, 16);
    const LayerProfile layer = random_layer(random, n_kv_heads, n_kv_heads, kGroupDims * n_groups,
                                            16 * random_int(random, 1, 16), 0.5f);
    const double k_bits = 1.0 * random_int(random, n_groups, 6 * n_groups) / n_groups;
    const LayerCodec codec(layer, Budget{k_bits, 1.0 + round % 6});
    const Rows keys = random_rows(random, kCells, codec.key_token_bytes());
    const Rows values = random_rows(random, kCells, codec.value_token_bytes());
    std::vector<std::uint8_t> key_pages(3 * codec.key_page_bytes(), 0xa5);
    std::vector<std::uint8_t> value_pages(3 * codec.value_page_bytes(), 0xa5);
    std::vector<int> cells(kCells);
    for (int i = 0; i < kCells; ++i) cells[i] = i;
    std::shuffle(cells.begin(), cells.end(), random);
    for (const int cell : cells) {  // over bytes that hold other codes
      codec.store_key_rows(key_pages.data(), cell, keys[kCells - 1 - cell].data());
      codec.store_value_rows(value_pages.data(), cell, values[kCells - 1 - cell].data());
    }
    for (const int cell : cells) {
      codec.store_key_rows(key_pages.data(), cell, keys[cell].data());
      codec.store_value_rows(value_pages.data(), cell, values[cell].data());
    }
    std::vector<std::uint8_t> key(codec.key_token_bytes()), value(codec.value_token_bytes());
    for (int cell = 0; cell < kCells; ++cell) {
      codec.load_key_rows(key_pages.data(), cell, key.data());
      codec.load_value_rows(value_pages.data(), cell, value.data());
      ASSERT_EQ(key, keys[cell]);
      ASSERT_EQ(value, values[cell]);
    }
  }
}

TEST(LayerCodec, StoresVectorsOfSomeHeads) {
  Random random(7);
  const LayerProfile layer = random_layer(random, 3, 3, 64, 96, 0.5f);
  const LayerCodec codec(layer, Budget{3, 4});
  std::vector<float> keys(3 * 64), values(3 * 96);
  for (float& x : keys) x = random_normal(random);
  for (float& x : values) x = random_normal(random);
  std::vector<std::uint8_t> key_pages(codec.key_page_bytes()), value_pages(codec.value_page_bytes());
  for (const HeadRange heads : {HeadRange{2, 3}, HeadRange{0, 2}}) {
    codec.store_keys(key_pages.data(), 17, keys.data(), 1234, heads);
    codec.store_values(value_pages.data(), 17, values.data(), heads);
  }
  Rows expected(2), stored = {std::vector<std::uint8_t>(codec.key_token_bytes()),
                              std::vector<std::uint8_t>(codec.value_token_bytes())};
  for (int h = 0; h < 3; ++h) {
    std::vector<std::uint8_t> key(codec.key_codec(h).row_bytes()), value(codec.value_codec(h).row_bytes());
    codec.key_codec(h).encode(&keys[64 * h], 1234, key.data());
    codec.value_codec(h).encode(&values[96 * h], value.data());
    expected[0].insert(expected[0].end(), key.begin(), key.end());
    expected[1].insert(expected[1].end(), value.begin(), value.end());
  }
  codec.load_key_rows(key_pages.data(), 17, stored[0].data());
  codec.load_value_rows(value_pages.data(), 17, stored[1].data());
  EXPECT_EQ(stored, expected);
}

TEST(LayerCodec, PagesHoldNothingButRows) {
  Random random(6);
  const LayerProfile layer = random_layer(random, 4, 2, 128, 96, 0.5f);
  const LayerCodec codec(layer, Budget{3, 5});
  EXPECT_EQ(codec.key_token_bytes(), 2 * key_row_bytes(codec.plan(0)));
  EXPECT_EQ(codec.value_token_bytes(), 2 * value_row_bytes(codec.plan(0)));
  EXPECT_EQ(codec.key_page_bytes(), kPageTokens * codec.key_token_bytes());
  EXPECT_EQ(codec.value_page_bytes(), kPageTokens * codec.value_token_bytes());
}

}  // namespace
}  // namespace gtq::test
