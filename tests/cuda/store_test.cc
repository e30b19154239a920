// Rows stored on the GPU are the CPU codec's, bit by bit.
#include <cuda_fp16.h>

#include <bit>

#include "cuda/gpu.h"
#include "gtq/error.h"
#include "reference/half.h"

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

struct StoreCase {
  unsigned seed;
  int head_dim_k, head_dim_v;
  Budget budget;
  int n_pages;
  cuda::Type type = cuda::Type::kF32;
  float mean_gap = -1;  // between both mean keys, relative; as they come if below 0
};

// Elements of the given type with a gap after each head; `elements` becomes what they hold.
std::vector<std::uint8_t> as_bytes(cuda::Type type, int head_dim, int gap, std::vector<float>& elements) {
  const int n_bytes = type == cuda::Type::kF32 ? 4 : 2;
  std::vector<std::uint8_t> bytes;
  for (std::size_t i = 0; i < elements.size(); ++i) {
    std::uint32_t bits = std::bit_cast<std::uint32_t>(elements[i]);
    if (type == cuda::Type::kBf16) {
      elements[i] = std::bit_cast<float>(bits & 0xffff0000u);
      bits >>= 16;
    } else if (type == cuda::Type::kF16) {
      bits = __half_raw(__float2half_rn(elements[i])).x;
      elements[i] = static_cast<float>(reference::half_to_double(static_cast<std::uint16_t>(bits)));
    }
    for (int byte = 0; byte < n_bytes; ++byte) bytes.push_back(static_cast<std::uint8_t>(bits >> (8 * byte)));
    if (i % head_dim == static_cast<std::size_t>(head_dim) - 1)
      bytes.resize(bytes.size() + gap * n_bytes, 0x7f);
  }
  return bytes;
}

void check_store(const StoreCase& c) {
  constexpr int kHeads = 4, kGap = 3;
  Random random(c.seed);
  LayerProfile layer = random_layer(random, 8, kHeads, c.head_dim_k, c.head_dim_v, 0.4f);
  const std::size_t half = layer.mean_keys.size() / 2;
  for (std::size_t i = 0; i < half && c.mean_gap >= 0; ++i) {
    layer.mean_keys[half + i] = layer.mean_keys[i] * (1 + random_normal(random, c.mean_gap));
  }
  const LayerCodec codec(layer, c.budget);
  const cuda::Layer tables(codec);
  DeviceCache cache(codec, c.n_pages);
  // The last cells stay as they are.
  const std::int64_t n = static_cast<std::int64_t>(c.n_pages) * kPageTokens - 5;
  const std::vector<std::int32_t> positions = consecutive(n, c.seed % 2 == 0 ? 0 : 40000);
  Vectors v = random_vectors(random, codec, layer, positions);
  std::vector<std::int64_t> cells(n);
  for (std::int64_t i = 0; i < n; ++i) cells[i] = i;
  std::shuffle(cells.begin(), cells.end(), random);
  const DeviceArray<std::uint8_t> keys(as_bytes(c.type, c.head_dim_k, kGap, v.keys));
  const DeviceArray<std::uint8_t> values(as_bytes(c.type, c.head_dim_v, kGap, v.values));
  const DeviceArray<std::int32_t> device_positions(positions);
  const auto rows = [&](const DeviceArray<std::uint8_t>& data, int head_dim) {
    return cuda::Rows{data.data(), c.type, kHeads * (head_dim + kGap), head_dim + kGap};
  };
  cuda::StoreCall call;
  call.layer = &tables;
  call.cache = cache.view();
  call.keys = rows(keys, c.head_dim_k);
  call.values = rows(values, c.head_dim_v);
  call.positions = device_positions.data();
  call.n_rows = n;
  // Every third row in a call of its own.
  const DeviceArray<std::int64_t> device_cells(cells);
  for (int part = 0; part < 2; ++part) {
    std::vector<std::int64_t> some = cells;
    for (std::int64_t i = 0; i < n; ++i) {
      if ((i % 3 == 0 ? 1 : 0) != part) some[i] = -1 - i;
    }
    const DeviceArray<std::int64_t> device_some(some);
    call.cells = device_some.data();
    cuda::store(call, nullptr);
    expect_ok(cudaDeviceSynchronize());
  }
  const TokenRows want = encode(codec, v, positions);
  DeviceArray<std::uint8_t> got_keys(want.keys.size()), got_values(want.values.size());
  cuda::gather_rows(tables, cache.view(), device_cells.data(), n, got_keys.data(), got_values.data(), nullptr);
  EXPECT_EQ(differing_rows(got_keys.download(), want.keys, codec.key_token_bytes()), 0u)
      << c.seed << " of " << n;
  EXPECT_EQ(differing_rows(got_values.download(), want.values, codec.value_token_bytes()), 0u)
      << c.seed << " of " << n;
  const std::vector<std::int32_t> stored = cache.positions();
  for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(stored[cells[i]], positions[i]);
  EXPECT_EQ(stored.back(), kEmptyCell);
}

TEST(CudaStore, SameBytesAsCpuCodec) {
  GTQ_NEEDS_GPU();
  const int dims[] = {64, 96, 128, 256};
  for (unsigned seed = 0; seed < 24; ++seed) {
    const int d = dims[seed % 4];
    check_store({seed, d, d, Budget{1.0 + seed % 6, 1.0 + seed / 4}, 8});
  }
}

TEST(CudaStore, HeadsOfOtherDims) {
  GTQ_NEEDS_GPU();
  check_store({30, 192, 128, Budget{3, 4}, 4});
  check_store({31, 80, 64, Budget{4, 3}, 4});
  check_store({32, 16, 32, Budget{2, 6}, 4});
  check_store({33, 144, 160, Budget{5, 2}, 4});
  check_store({34, 112, 224, Budget{6, 1}, 4});
}

TEST(CudaStore, RowsOfHalves) {
  GTQ_NEEDS_GPU();
  check_store({40, 128, 128, Budget{3, 3}, 8, cuda::Type::kF16});
  check_store({41, 128, 128, Budget{3, 3}, 8, cuda::Type::kBf16});
  check_store({42, 256, 64, Budget{4, 5}, 8, cuda::Type::kF16});
}

TEST(CudaStore, MeanKeysThatAreTheSame) {
  GTQ_NEEDS_GPU();
  check_store({50, 128, 128, Budget{3, 3}, 8, cuda::Type::kF32, 0});
}

TEST(CudaStore, MeanKeysThatAreClose) {
  GTQ_NEEDS_GPU();
  check_store({51, 128, 128, Budget{3, 3}, 8, cuda::Type::kF32, 1e-5f});
  check_store({52, 256, 64, Budget{3, 3}, 8, cuda::Type::kF32, 1e-6f});
}

TEST(CudaStore, SameBytesOnManyRows) {
  GTQ_NEEDS_GPU();
  check_store({100, 128, 128, Budget{3, 3}, 1000});
}

TEST(CudaStore, RefusesValueHeadsOfOddDims) {
  GTQ_NEEDS_GPU();
  Random random(1);
  const LayerCodec codec(random_layer(random, 4, 2, 64, 80, 0.4f), Budget{3, 3});
  EXPECT_THROW(cuda::Layer{codec}, Error);
}

}  // namespace
}  // namespace gtq::test
