// Every encoder of this machine against src/codec, bit for bit.
#include "cpu/row_encoder.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "cpu/dispatch.h"
#include "cpu/layer_tables.h"
#include "cpu/random_layer.h"

namespace gtq::test {
namespace {

using Row = std::vector<std::uint8_t>;

// Numbers of all kinds that models, and bugs in them, give.
class RandomVectors {
 public:
  explicit RandomVectors(Random& random) : random_(random) {}

  std::vector<float> next(int n) {
    std::vector<float> x(n);
    const int kind = random_int(random_, 0, 15);
    const float scale = kind < 8 ? std::exp(random_normal(random_)) : std::exp2(random_normal(random_, 40.0f));
    for (float& value : x) value = random_normal(random_, scale);
    if (kind == 1) x.assign(n, random_int(random_, 0, 1) == 0 ? 0.0f : -0.0f);
    if (kind == 2) x[random_int(random_, 0, n - 1)] *= 1e4f;
    if (kind == 3) spoil(x, {NAN, INFINITY, -INFINITY, 0.0f, -0.0f});
    if (kind == 4) spoil(x, {kLargest, -kLargest, 1e30f, -3e38f});
    if (kind == 5) spoil(x, {1e-45f, -1e-45f, 1e-40f, kSmallest});
    if (kind == 6) x.assign(n, kLargest);
    if (kind == 7) std::fill(x.begin(), x.begin() + n / 2, 0.0f);
    return x;
  }

 private:
  static constexpr float kLargest = std::numeric_limits<float>::max();
  static constexpr float kSmallest = std::numeric_limits<float>::min();

  void spoil(std::vector<float>& x, const std::vector<float>& with) {
    for (float& value : x) {
      if (random_int(random_, 0, 3) == 0)
        value = with[random_int(random_, 0, static_cast<int>(with.size()) - 1)];
    }
  }

  Random& random_;
};

// head_dims up to 256 that models have and others, and a few that none has.
int random_head_dim(Random& random) {
  return random_int(random, 0, 31) == 0 ? 16 * random_int(random, 17, 64) : 16 * random_int(random, 1, 16);
}

LayerProfile random_profile(Random& random) {
  LayerProfile layer = random_layer(random, 2, 2, random_head_dim(random), random_head_dim(random),
                                    0.5f * static_cast<float>(random_int(random, 0, 2)));
  const std::size_t n = layer.mean_keys.size() / kMeans;
  if (random_int(random, 0, 3) == 0) {  // no first token was seen
    std::copy_n(layer.mean_keys.begin(), n, layer.mean_keys.begin() + n);
  }
  return layer;
}

void expect_same_rows(const cpu::RowEncoder& encoder, Random& random, int n_layers, int n_tokens) {
  RandomVectors vectors(random);
  for (int i = 0; i < n_layers; ++i) {
    const LayerCodec codec(random_profile(random), Budget{1.0 + i % 6, 1.0 + i / 6 % 6});
    std::vector<float> turn(codec.head_dim_k());
    for (int token = 0; token < n_tokens; ++token) {
      const auto& head = *codec.impl().heads[token % 2];
      codec.rope().make_turn(random_int(random, 0, 200000), turn.data());
      std::vector<float> key = vectors.next(codec.head_dim_k()), value = vectors.next(codec.head_dim_v());
      if (token % 3 == 0) {  // near one of the mean keys, or between them
        std::vector<float> means(kMeans * key.size());
        head.key_codec.turn_means(turn.data(), means.data());
        const float share = 0.5f * static_cast<float>(random_int(random, 0, 2));
        for (std::size_t d = 0; d < key.size(); ++d) {
          key[d] = 0.1f * key[d] + share * means[d] + (1 - share) * means[key.size() + d];
        }
      }
      Row row(head.key_codec.row_bytes()), expected(row.size());
      head.key_codec.encode(key.data(), turn.data(), expected.data());
      encoder.encode_key(head.row_tables.key(), key.data(), turn.data(), row.data());
      ASSERT_EQ(row, expected) << "key of " << key.size() << " dims, layer " << i;
      row.assign(head.value_codec.row_bytes(), 0);
      expected.resize(row.size());
      head.value_codec.encode(value.data(), expected.data());
      encoder.encode_value(head.row_tables.value(), value.data(), row.data());
      ASSERT_EQ(row, expected) << "value of " << value.size() << " dims, layer " << i;
    }
  }
}

TEST(RowEncoder, GivesTheBytesOfTheCodec) {
  for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
    SCOPED_TRACE(kernel.name);
    Random random(1);
    expect_same_rows(*kernel.encoder, random, 360, 300);
  }
}

// Values on thresholds and norms between two codes: every number a multiple of one centroid's half.
TEST(RowEncoder, BreaksTiesAsTheCodec) {
  for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
    SCOPED_TRACE(kernel.name);
    Random random(2);
    for (int width = 1; width <= 6; ++width) {
      LayerProfile layer = random_layer(random, 1, 1, 16, 16, 0.0f);
      layer.rms_v = {1.0f};
      const LayerCodec codec(layer, Budget{1.0 * width, 1.0 * width});
      const auto& head = *codec.impl().heads[0];
      Row row(head.value_codec.row_bytes()), expected(row.size());
      for (int i = 0; i < 2000; ++i) {
        std::vector<float> value(16);
        for (float& x : value) x = static_cast<float>(random_int(random, -2, 2)) / 4;
        head.value_codec.encode(value.data(), expected.data());
        kernel.encoder->encode_value(head.row_tables.value(), value.data(), row.data());
        ASSERT_EQ(row, expected);
      }
    }
  }
}

void expect_same_turn(const cpu::RowEncoder& encoder, const Rope& rope, std::int64_t position) {
  std::vector<float> turn(2 * rope.n_blocks()), expected(turn.size());
  rope.make_turn(position, expected.data());
  encoder.make_turn(cpu::turn_angles(rope), position, turn.data());
  for (std::size_t i = 0; i < turn.size(); ++i) {
    ASSERT_EQ(turn[i], expected[i]) << "position " << position << ", number " << i;
  }
}

TEST(RowEncoder, TurnsAsRope) {
  for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
    SCOPED_TRACE(kernel.name);
    Random random(3);
    for (int i = 0; i < 200; ++i) {
      const int head_dim = 16 * random_int(random, 1, 16);
      RopeParams params;
      params.n_rot = random_int(random, 0, 2) == 0 ? 2 * random_int(random, 0, head_dim / 2) : head_dim;
      params.freq_base = std::exp(std::uniform_real_distribution<float>(0.1f, 16)(random));
      params.freq_scale = random_int(random, 0, 2) == 0 ? 0.25f : 1.0f;
      const Rope rope(head_dim, params);
      for (int n = 0; n < 100; ++n) expect_same_turn(*kernel.encoder, rope, n);
      for (int n = 0; n < 400; ++n) {
        expect_same_turn(*kernel.encoder, rope,
                         static_cast<std::int32_t>(random()) >> random_int(random, 0, 31));
      }
    }
  }
}

}  // namespace
}  // namespace gtq::test
