// The codec of the library against the decoder written from the format.
#include "reference/codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtq/codec.h"
#include "reference/rotary.h"

namespace gtq::reference {
namespace {

constexpr int kHeadDims[] = {16, 64, 80, 96, 128, 256};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  float gaussian() { return normal_(engine_); }
  int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  std::vector<float> gaussians(int n) {
    std::vector<float> x(n);
    for (float& value : x) value = gaussian();
    return x;
  }
  template <typename T>
  void shuffle(std::vector<T>& x) {
    std::shuffle(x.begin(), x.end(), engine_);
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

RopeParams random_rope(int head_dim, Random& random) {
  RopeParams params;
  params.mode = random.below(2) == 0 ? RopeMode::kInterleaved : RopeMode::kNeox;
  params.n_rot = random.below(2) == 0 ? head_dim : head_dim / 2;
  return params;
}

HeadPlan random_plan(int head_dim, const RopeParams& rope, Random& random) {
  HeadPlan plan;
  plan.head_dim_k = plan.head_dim_v = head_dim;
  std::vector<RopeBlock> blocks = rope_blocks(head_dim, rope);
  random.shuffle(blocks);
  for (const RopeBlock& block : blocks) {
    const float scale = std::exp(random.gaussian());
    for (const int dim : {block.first, block.second}) {
      plan.dims.push_back(static_cast<std::uint16_t>(dim));
      plan.scale.push_back(scale);
      plan.weight.push_back(1.0f);
    }
  }
  for (int g = 0; g < head_dim / kGroupDims; ++g) {
    plan.widths.push_back(static_cast<std::uint8_t>(kMinWidth + random.below(kMaxWidth)));
  }
  std::sort(plan.widths.begin(), plan.widths.end());
  plan.mean_keys = random.gaussians(kMeans * head_dim);
  plan.centred.assign(head_dim / 2, 1);
  plan.v_width = kMinWidth + random.below(kMaxWidth);
  plan.v_rms = std::exp(random.gaussian());
  return plan;
}

template <typename A, typename B>
double relative_difference(const std::vector<A>& x, const std::vector<B>& reference) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto expected = static_cast<double>(reference[i]);
    difference += std::pow(static_cast<double>(x[i]) - expected, 2);
    norm += expected * expected;
  }
  return std::sqrt(difference / norm);
}

TEST(ReferenceCodec, SignsAreThoseOfTheLibrary) {
  int sum = 0;
  for (int stream = 0; stream < 2; ++stream) {
    for (int i = 0; i < 1024; ++i) {
      ASSERT_EQ(random_sign(stream, i), static_cast<double>(rotation_sign(stream, i))) << stream << ", " << i;
      sum += static_cast<int>(random_sign(stream, i));
    }
  }
  EXPECT_LT(std::abs(sum), 200);
}

TEST(ReferenceCodec, NormsAreThoseOfTheLibrary) {
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<std::uint8_t>(code);
    EXPECT_EQ(key_mean_index(byte), code / 128);
    EXPECT_NEAR(static_cast<double>(key_norm(byte)) / std::exp2((code % 128 - 48) / 16.0), 1, 1e-6);
    const double expected = code == 0 ? 0 : std::exp2((code - 160) / 16.0);
    EXPECT_NEAR(static_cast<double>(value_norm(byte)), expected, 1e-6 * expected);
  }
}

TEST(ReferenceCodec, ReadsLittleEndianBitStrings) {
  const std::uint8_t bytes[] = {0b11'010'001, 0b0'111'110'0, 0b101'100'01};
  EXPECT_EQ(read_codes(bytes, 8, 3), (std::vector<int>{1, 2, 3, 6, 7, 2, 4, 5}));
  EXPECT_EQ(read_codes(bytes, 3, 4), (std::vector<int>{0b0001, 0b1101, 0b1100}));
}

TEST(ReferenceCodec, HadamardIsItsOwnInverse) {
  const std::vector<double> x = {1, 2, 3, 4};
  EXPECT_EQ(hadamard_transform(x), (std::vector<double>{5, -1, -2, 0}));
  EXPECT_EQ(hadamard_transform(hadamard_transform(x)), x);
}

TEST(ReferenceCodec, DecodesKeysOfTheLibrary) {
  Random random(1);
  for (const int head_dim : kHeadDims) {
    for (int trial = 0; trial < 40; ++trial) {
      const RopeParams params = random_rope(head_dim, random);
      const HeadPlan plan = random_plan(head_dim, params, random);
      const Rope rope(head_dim, params);
      const KeyCodec codec(plan, rope);
      const int position = random.below(100000);
      std::vector<std::uint8_t> row(codec.row_bytes());
      std::vector<float> decoded(head_dim);
      codec.encode(random.gaussians(head_dim).data(), position, row.data());
      codec.decode(row.data(), position, decoded.data());
      ASSERT_LT(relative_difference(decoded, decode_key(plan, params, row.data(), position)), 1e-5);

      for (std::uint8_t& byte : row) byte = static_cast<std::uint8_t>(random.below(256));  // any row is valid
      codec.decode(row.data(), position, decoded.data());
      ASSERT_LT(relative_difference(decoded, decode_key(plan, params, row.data(), position)), 1e-5);
    }
  }
}

TEST(ReferenceCodec, DecodesValuesOfTheLibrary) {
  Random random(2);
  for (const int head_dim : kHeadDims) {
    for (int trial = 0; trial < 40; ++trial) {
      const HeadPlan plan = random_plan(head_dim, random_rope(head_dim, random), random);
      const ValueCodec codec(plan);
      std::vector<std::uint8_t> row(codec.row_bytes());
      std::vector<float> decoded(head_dim);
      codec.encode(random.gaussians(head_dim).data(), row.data());
      codec.decode(row.data(), decoded.data());
      ASSERT_LT(relative_difference(decoded, decode_value(plan, row.data())), 1e-5);

      for (std::uint8_t& byte : row) byte = static_cast<std::uint8_t>(1 + random.below(255));
      codec.decode(row.data(), decoded.data());
      ASSERT_LT(relative_difference(decoded, decode_value(plan, row.data())), 1e-5);

      row[0] = 0;
      EXPECT_EQ(decode_value(plan, row.data()), std::vector<double>(head_dim, 0.0));
    }
  }
}

// What the oracle reads back is the key that went in, up to the error of the codes.
TEST(ReferenceCodec, EncodedKeysAndValuesComeBack) {
  Random random(3);
  for (const int head_dim : {64, 128}) {
    const RopeParams params = random_rope(head_dim, random);
    HeadPlan plan = random_plan(head_dim, params, random);
    const Rope rope(head_dim, params);
    std::fill(plan.scale.begin(), plan.scale.end(), 1.0f);
    plan.widths.assign(head_dim / kGroupDims, 4);
    plan.v_width = 4;
    plan.v_rms = 1;
    const KeyCodec key_codec(plan, rope);
    const ValueCodec value_codec(plan);
    std::vector<std::uint8_t> row(std::max(key_codec.row_bytes(), value_codec.row_bytes()));
    double key_error = 0, value_error = 0;
    for (int trial = 0; trial < 200; ++trial) {
      const int c = trial % kMeans;
      const std::vector<double> mean(plan.mean_keys.begin() + c * head_dim,
                                     plan.mean_keys.begin() + (c + 1) * head_dim);
      const std::vector<double> centre = rotate(mean, rope_blocks(head_dim, params), trial);
      const std::vector<float> residual = random.gaussians(head_dim);
      std::vector<float> key(head_dim);
      for (int i = 0; i < head_dim; ++i) key[i] = static_cast<float>(centre[i]) + 0.5f * residual[i];
      key_codec.encode(key.data(), trial, row.data());
      EXPECT_EQ(row[0] >> 7, c);
      const std::vector<double> decoded = decode_key(plan, params, row.data(), trial);
      for (int i = 0; i < head_dim; ++i) key_error += std::pow(decoded[i] - static_cast<double>(key[i]), 2);
      value_codec.encode(residual.data(), row.data());
      value_error += std::pow(relative_difference(residual, decode_value(plan, row.data())), 2);
    }
    // 4-bit Gaussian distortion is 0.0095; the search for the norm gains up to a quarter on short rows.
    for (const double error : {key_error / (200.0 * head_dim * 0.25), value_error / 200}) {
      EXPECT_LT(error, 0.0100) << head_dim;
      EXPECT_GT(error, 0.0065) << head_dim;
    }
  }
}

}  // namespace
}  // namespace gtq::reference
