// Token rows are the same bytes on every machine and with every compiler: a state file may be read elsewhere.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/codec.h"

namespace gtq {
namespace {

// Numbers around a mean with a spread of about 1, the same on every machine: multiples of 2^-16, whose sums are
// exact. The distributions of the standard library need not be.
class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  float number(float mean = 0.0f) {
    int sum = 0;
    for (int i = 0; i < 12; ++i) sum += below(1 << 16) - (1 << 15);
    return mean + static_cast<float>(sum) * 0x1p-16f;
  }
  std::vector<float> numbers(int n, float mean = 0.0f) {
    std::vector<float> x(n);
    for (float& value : x) value = number(mean);
    return x;
  }

 private:
  std::mt19937 engine_;
};

LayerProfile random_layer(Random& random, int head_dim) {
  LayerProfile layer;
  layer.n_q_heads = layer.n_kv_heads = 2;
  layer.head_dim_k = layer.head_dim_v = head_dim;
  layer.rope.mode = random.below(2) == 0 ? RopeMode::kInterleaved : RopeMode::kNeox;
  layer.rope.n_rot = head_dim;
  for (int i = 0; i < head_dim; ++i) {  // both heads' rope_blocks
    const float energy = 8.0f + random.number();
    layer.energy_q.push_back(8.0f + random.number());
    layer.energy_e.push_back(energy);
    layer.energy_k.push_back(random.below(2) == 0 ? energy : 2.0f * energy);
  }
  layer.mean_keys = random.numbers(2 * kMeans * head_dim);
  layer.rms_v = random.numbers(2, 8.0f);
  return layer;
}

// A key so near to a mean that the rounding of the turned mean shows in its codes. Products of floats are exact
// in double, fused or not.
std::vector<float> key_near_mean(Random& random, const HeadPlan& plan, const Rope& rope, int position) {
  std::vector<float> turn(plan.head_dim_k), key = random.numbers(plan.head_dim_k);
  rope.make_turn(position, turn.data());
  const float* mean = &plan.mean_keys[random.below(kMeans) * plan.head_dim_k];
  for (int i = 0; i < rope.n_blocks(); ++i) {
    const double c = turn[i], s = turn[rope.n_blocks() + i];
    const double x = mean[rope.first(i)], y = mean[rope.second(i)];
    key[rope.first(i)] = static_cast<float>(x * c - y * s + 0x1p-20 * key[rope.first(i)]);
    key[rope.second(i)] = static_cast<float>(x * s + y * c + 0x1p-20 * key[rope.second(i)]);
  }
  return key;
}

class Hash {
 public:
  void add(const std::vector<std::uint8_t>& bytes) {
    for (const std::uint8_t byte : bytes) state_ = (state_ ^ byte) * 0x100000001b3u;
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xcbf29ce484222325u;
};

TEST(TokenRow, IsTheSameEverywhere) {
  Random random(1);
  Hash keys, values;
  for (const int head_dim : {64, 80, 128}) {
    const LayerProfile layer = random_layer(random, head_dim);
    const Rope rope(head_dim, layer.rope);
    for (int bits = kMinWidth; bits <= kMaxWidth; ++bits) {
      for (const HeadPlan& plan : plan_layer(layer, {1.0 * bits, 1.0 * bits})) {
        const KeyCodec key_codec(plan, rope);
        const ValueCodec value_codec(plan);
        std::vector<std::uint8_t> key_row(key_codec.row_bytes()), value_row(value_codec.row_bytes());
        for (int token = 0; token < 50; ++token) {
          const int position = random.below(4096);
          const std::vector<float> key =
              token % 2 == 0 ? random.numbers(head_dim) : key_near_mean(random, plan, rope, position);
          key_codec.encode(key.data(), position, key_row.data());
          value_codec.encode(random.numbers(head_dim).data(), value_row.data());
          keys.add(key_row);
          values.add(value_row);
        }
      }
    }
  }
  EXPECT_EQ(keys.value(), 0xa1fcb73a77dfbaf8u);
  EXPECT_EQ(values.value(), 0x3636a0e3ebd96000u);
}

}  // namespace
}  // namespace gtq
