// Token rows survive pages of the GPU, page copies, and leave other cells alone.
#include <numeric>

#include "cuda/gpu.h"

namespace gtq::test {
namespace {

std::vector<std::int64_t> shuffled_cells(Random& random, std::int64_t n_cells) {
  std::vector<std::int64_t> cells(n_cells);
  std::iota(cells.begin(), cells.end(), 0);
  std::shuffle(cells.begin(), cells.end(), random);
  return cells;
}

TEST(CudaRows, ScatterThenGather) {
  GTQ_NEEDS_GPU();
  for (unsigned seed = 0; seed < 24; ++seed) {
    Random random(seed);
    const int dims[] = {64, 96, 128, 256};
    const int d = dims[seed % 4];
    const LayerProfile layer = random_layer(random, 6, 3, d, d, 0.5f);
    const LayerCodec codec(layer, Budget{1.0 + seed / 4, 6.0 - seed / 4});
    const cuda::Layer tables(codec);
    const std::int64_t n_pages = 3, n_cells = n_pages * kPageTokens;
    DeviceCache cache(codec, n_pages);
    const TokenRows rows = random_token_rows(random, codec, n_cells, true);
    const DeviceArray<std::int64_t> cells(shuffled_cells(random, n_cells));
    const DeviceArray<std::uint8_t> keys(rows.keys), values(rows.values);
    cuda::scatter_rows(tables, cache.view(), cells.data(), n_cells, keys.data(), values.data(), nullptr);
    DeviceArray<std::uint8_t> keys_back(rows.keys.size()), values_back(rows.values.size());
    cuda::gather_rows(tables, cache.view(), cells.data(), n_cells, keys_back.data(), values_back.data(),
                      nullptr);
    EXPECT_EQ(keys_back.download(), rows.keys) << seed;
    EXPECT_EQ(values_back.download(), rows.values) << seed;
  }
}

TEST(CudaRows, CopyPages) {
  GTQ_NEEDS_GPU();
  Random random(1);
  const LayerProfile layer = random_layer(random, 2, 2, 128, 64, 0.5f);
  const LayerCodec codec(layer, Budget{3, 3});
  const cuda::Layer tables(codec);
  DeviceCache cache(codec, 4);
  const TokenRows rows = random_token_rows(random, codec, 2 * kPageTokens, false);
  const DeviceArray<std::int64_t> cells(shuffled_cells(random, 2 * kPageTokens));
  const DeviceArray<std::uint8_t> keys(rows.keys), values(rows.values);
  cuda::scatter_rows(tables, cache.view(), cells.data(), 2 * kPageTokens, keys.data(), values.data(), nullptr);
  std::vector<std::int32_t> positions = consecutive(4 * kPageTokens, 7);
  cache.set_positions(positions);
  const DeviceArray<std::int32_t> from(std::vector<std::int32_t>{1, 0}), to(std::vector<std::int32_t>{2, 3});
  cuda::copy_pages(tables, cache.view(), from.data(), to.data(), 2, nullptr);
  const auto check = [](const auto& all, std::size_t page) {
    EXPECT_TRUE(std::equal(all.begin(), all.begin() + page, all.begin() + 3 * page));
    EXPECT_TRUE(std::equal(all.begin() + page, all.begin() + 2 * page, all.begin() + 2 * page));
  };
  check(cache.key_bytes(), codec.key_page_bytes());
  check(cache.value_bytes(), codec.value_page_bytes());
  check(cache.positions(), kPageTokens);
}

}  // namespace
}  // namespace gtq::test
