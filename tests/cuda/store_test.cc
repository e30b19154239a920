// Rows stored on the GPU are the CPU codec's, bit by bit.
#include "cuda/gpu.h"

namespace gtq::test {
namespace {

struct Vectors {
  std::vector<float> keys, values;
};

// Keys around their mean key, values around rms; some rows extreme.
Vectors random_vectors(Random& random, const LayerCodec& codec, const LayerProfile& layer,
                       const std::vector<std::int32_t>& positions) {
  const int dk = codec.head_dim_k(), dv = codec.head_dim_v(), n_heads = codec.n_kv_heads();
  Vectors v;
  std::vector<float> mean(dk);
  for (std::size_t row = 0; row < positions.size(); ++row) {
    const int kind = random_int(random, 0, 50);
    const float size = kind == 0 ? 0.0f : kind == 1 ? 1e-20f : kind == 2 ? 1e12f : kind < 6 ? 20.0f : 1.0f;
    for (int h = 0; h < n_heads; ++h) {
      const int c = positions[row] == 0 ? 0 : 1;
      codec.rope().rotate(&layer.mean_keys[(c * n_heads + h) * dk], positions[row], mean.data());
      for (int i = 0; i < dk; ++i) v.keys.push_back(mean[i] + size * random_normal(random));
      for (int i = 0; i < dv; ++i) v.values.push_back(size * layer.rms_v[h] * random_normal(random));
      if (kind == 7) v.keys[v.keys.size() - 3] = INFINITY;
      if (kind == 8) v.values[v.values.size() - 5] = NAN;
    }
  }
  return v;
}

// Token rows the CPU makes of the same vectors.
TokenRows encode(const LayerCodec& codec, const Vectors& v, const std::vector<std::int32_t>& positions) {
  TokenRows rows;
  rows.keys.resize(positions.size() * codec.key_token_bytes());
  rows.values.resize(positions.size() * codec.value_token_bytes());
  std::uint8_t *key = rows.keys.data(), *value = rows.values.data();
  for (std::size_t i = 0; i < positions.size(); ++i) {
    for (int h = 0; h < codec.n_kv_heads(); ++h) {
      const std::size_t at = i * codec.n_kv_heads() + h;
      codec.key_codec(h).encode(&v.keys[at * codec.head_dim_k()], positions[i], key);
      codec.value_codec(h).encode(&v.values[at * codec.head_dim_v()], value);
      key += codec.key_codec(h).row_bytes();
      value += codec.value_codec(h).row_bytes();
    }
  }
  return rows;
}

std::size_t differing_rows(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b,
                           std::size_t bytes) {
  std::size_t n = 0;
  for (std::size_t at = 0; at < a.size(); at += bytes) {
    if (!std::equal(a.begin() + at, a.begin() + at + bytes, b.begin() + at)) ++n;
  }
  return n;
}

void check_store(unsigned seed, int d, const Budget& budget, int n_pages) {
  Random random(seed);
  const LayerProfile layer = random_layer(random, 8, 4, d, d, 0.4f);
  const LayerCodec codec(layer, budget);
  const cuda::Layer tables(codec);
  DeviceCache cache(codec, n_pages);
  const std::int64_t n =
      static_cast<std::int64_t>(n_pages) * kPageTokens - 5;  // the last cells stay as they are
  const std::vector<std::int32_t> positions = consecutive(n, seed % 2 == 0 ? 0 : 40000);
  const Vectors v = random_vectors(random, codec, layer, positions);
  std::vector<std::int64_t> cells(n);
  for (std::int64_t i = 0; i < n; ++i) cells[i] = i;
  std::shuffle(cells.begin(), cells.end(), random);
  const DeviceArray<float> keys(v.keys), values(v.values);
  const DeviceArray<std::int64_t> device_cells(cells);
  const DeviceArray<std::int32_t> device_positions(positions);
  cuda::StoreCall call;
  call.layer = &tables;
  call.cache = cache.view();
  call.keys = {keys.data(), cuda::Type::kF32, 4 * d, d};
  call.values = {values.data(), cuda::Type::kF32, 4 * d, d};
  call.cells = device_cells.data();
  call.positions = device_positions.data();
  call.n_rows = n;
  cuda::store(call, nullptr);
  const TokenRows want = encode(codec, v, positions);
  DeviceArray<std::uint8_t> got_keys(want.keys.size()), got_values(want.values.size());
  cuda::gather_rows(tables, cache.view(), device_cells.data(), n, got_keys.data(), got_values.data(), nullptr);
  EXPECT_EQ(differing_rows(got_keys.download(), want.keys, codec.key_token_bytes()), 0u) << seed << " of " << n;
  EXPECT_EQ(differing_rows(got_values.download(), want.values, codec.value_token_bytes()), 0u)
      << seed << " of " << n;
  const std::vector<std::int32_t> stored = cache.positions();
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(stored[cells[i]], positions[i]);
  EXPECT_EQ(stored.back(), kEmptyCell);
}

TEST(CudaStore, SameBytesAsCpuCodec) {
  GTQ_NEEDS_GPU();
  const int dims[] = {64, 96, 128, 256};
  for (unsigned seed = 0; seed < 24; ++seed) {
    check_store(seed, dims[seed % 4], Budget{1.0 + seed % 6, 1.0 + seed / 4}, 8);
  }
}

TEST(CudaStore, SameBytesOnManyRows) {
  GTQ_NEEDS_GPU();
  check_store(100, 128, Budget{3, 3}, 1000);
}

}  // namespace
}  // namespace gtq::test
