#include "gtq/calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "gtq/error.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

using testing::Random;

constexpr int kQHeads = 4, kKvHeads = 2, kDimK = 32, kDimV = 16;

RopeParams test_rope() {
  RopeParams rope;
  rope.mode = RopeMode::kNeox;
  rope.n_rot = 24;
  return rope;
}

LayerCalibrator make_calibrator() { return {5, kQHeads, kKvHeads, kDimK, kDimV, test_rope()}; }

std::vector<float> random_row(int n, Random& random) {
  std::vector<float> row;
  for (int i = 0; i < n; ++i) row.push_back(static_cast<float>(random.uniform(-1, 1)));
  return row;
}

// Turns pre-RoPE keys of all heads into what the model hands out at `position`.
std::vector<float> rotated(const std::vector<float>& key, int position) {
  const Rope rope(kDimK, test_rope());
  std::vector<float> out(key.size());
  for (int h = 0; h < kKvHeads; ++h) rope.rotate(&key[h * kDimK], position, &out[h * kDimK]);
  return out;
}

void add_plain_query_and_value(LayerCalibrator& calibrator) {
  calibrator.add_query(std::vector<float>(kQHeads * kDimK, 1.0f).data());
  calibrator.add_value(std::vector<float>(kKvHeads * kDimV, 1.0f).data());
}

TEST(LayerCalibrator, KeepsTheShape) {
  Random random(1);
  LayerCalibrator calibrator = make_calibrator();
  for (int t = 0; t < 64; ++t) {
    calibrator.add_key(random_row(kKvHeads * kDimK, random).data(), t);
    add_plain_query_and_value(calibrator);
  }
  EXPECT_EQ(calibrator.n_tokens(), 64);
  const LayerProfile layer = calibrator.finish();
  EXPECT_EQ(layer.layer, 5);
  EXPECT_EQ(layer.n_q_heads, kQHeads);
  EXPECT_EQ(layer.n_kv_heads, kKvHeads);
  EXPECT_EQ(layer.head_dim_k, kDimK);
  EXPECT_EQ(layer.head_dim_v, kDimV);
  EXPECT_EQ(layer.rope, test_rope());
}

// Keys = mean + sign * deviation with signs that cancel: means and energies are known exactly.
TEST(LayerCalibrator, RecoversMeansAndEnergies) {
  Random random(2);
  std::vector<float> first = random_row(kKvHeads * kDimK, random), rest = random_row(kKvHeads * kDimK, random);
  const std::vector<float> deviation = random_row(kKvHeads * kDimK, random);
  for (float& x : first) x += 8.0f;  // far from the others, so that the nearer mean is never in doubt
  LayerCalibrator calibrator = make_calibrator();
  const int n_sequences = 3, n_rest = 40;
  for (int s = 0; s < n_sequences; ++s) {
    calibrator.add_key(first.data(), 0);
    add_plain_query_and_value(calibrator);
    for (int t = 1; t <= n_rest; ++t) {
      std::vector<float> key = rest;
      for (std::size_t d = 0; d < key.size(); ++d) key[d] += t % 2 == 0 ? deviation[d] : -deviation[d];
      calibrator.add_key(rotated(key, 100 * t).data(), 100 * t);
      add_plain_query_and_value(calibrator);
    }
  }
  const LayerProfile layer = calibrator.finish();
  const Rope rope(kDimK, test_rope());
  const double share = static_cast<double>(n_rest) / (n_rest + 1);
  for (int h = 0; h < kKvHeads; ++h) {
    for (int d = 0; d < kDimK; ++d) {
      EXPECT_NEAR(layer.mean_keys[h * kDimK + d], first[h * kDimK + d], 1e-5);
      EXPECT_NEAR(layer.mean_keys[(kKvHeads + h) * kDimK + d], rest[h * kDimK + d], 1e-5);
    }
    for (int i = 0; i < kDimK / 2; ++i) {
      double energy_k = 0, energy_e = 0;
      for (const int dim : {rope.first(i), rope.second(i)}) {
        const double f = first[h * kDimK + dim], r = rest[h * kDimK + dim], x = deviation[h * kDimK + dim];
        energy_k += share * (r * r + x * x) + (1 - share) * f * f;
        energy_e += share * x * x;
      }
      EXPECT_NEAR(layer.energy_k[h * kDimK / 2 + i], energy_k, 1e-4);
      EXPECT_NEAR(layer.energy_e[h * kDimK / 2 + i], energy_e, 1e-5);
    }
  }
}

// E_q is a mean over tokens and over the query heads of a group; rms_v is per KV head.
TEST(LayerCalibrator, RecoversQueryAndValueEnergies) {
  Random random(3);
  LayerCalibrator calibrator = make_calibrator();
  for (int t = 0; t < 70; ++t) {
    std::vector<float> q(kQHeads * kDimK), v(kKvHeads * kDimV);
    for (int h = 0; h < kQHeads; ++h) {
      for (int d = 0; d < kDimK; ++d)
        q[h * kDimK + d] = static_cast<float>((h + 1) * (d + 1) * (t % 2 == 0 ? 1 : -3));
    }
    for (int i = 0; i < kKvHeads * kDimV; ++i)
      v[i] = static_cast<float>(i / kDimV + 1) * (t % 2 == 0 ? 1.0f : -1.0f);
    calibrator.add_query(q.data());
    calibrator.add_value(v.data());
    calibrator.add_key(random_row(kKvHeads * kDimK, random).data(), t);
  }
  const LayerProfile layer = calibrator.finish();
  const Rope rope(kDimK, test_rope());
  for (int h = 0; h < kKvHeads; ++h) {
    const double heads = ((2 * h + 1) * (2 * h + 1) + (2 * h + 2) * (2 * h + 2)) / 2.0;
    for (int i = 0; i < kDimK / 2; ++i) {
      const double x = rope.first(i) + 1, y = rope.second(i) + 1;
      const double expected = heads * (x * x + y * y) * (1 + 9) / 2;
      EXPECT_NEAR(layer.energy_q[h * kDimK / 2 + i] / expected, 1.0, 1e-6);
    }
    EXPECT_FLOAT_EQ(layer.rms_v[h], static_cast<float>(h + 1));
  }
}

// Rope_block 0 draws some keys to the mean of the first tokens, rope_block 1 to the other; E_q decides.
TEST(LayerCalibrator, NearerMeanIsWeightedByTheQueries) {
  const Rope rope(kDimK, test_rope());
  const auto energy_e = [&](float q0, float q1) {
    LayerCalibrator calibrator = make_calibrator();
    for (int t = 0; t < 200; ++t) {
      std::vector<float> q(kQHeads * kDimK), key(kKvHeads * kDimK);
      for (int h = 0; h < kQHeads; ++h) {
        q[h * kDimK + rope.first(0)] = q0;
        q[h * kDimK + rope.first(1)] = q1;
      }
      const bool stray = t % 100 == 99;
      for (int h = 0; h < kKvHeads; ++h) {
        key[h * kDimK + rope.first(0)] = t == 0 || stray ? 10.0f : 0.0f;
        key[h * kDimK + rope.first(1)] = t == 0 ? 10.0f : 0.0f;
      }
      calibrator.add_query(q.data());
      calibrator.add_value(std::vector<float>(kKvHeads * kDimV, 1.0f).data());
      calibrator.add_key(rotated(key, t).data(), t);
    }
    return calibrator.finish().energy_e;
  };
  // Two stray keys of 200; the error is in the rope_block that the queries look at less.
  const std::vector<float> by_0 = energy_e(2, 1), by_1 = energy_e(1, 2);
  EXPECT_LT(by_0[0], 0.02f);
  EXPECT_NEAR(by_0[1], 1.0f, 0.02f);
  EXPECT_NEAR(by_1[0], 1.0f, 0.02f);
  EXPECT_LT(by_1[1], 0.02f);
}

TEST(LayerCalibrator, WithoutFirstTokensBothMeansAreTheSame) {
  Random random(4);
  LayerCalibrator calibrator = make_calibrator();
  for (int t = 1; t <= 64; ++t) {
    calibrator.add_key(random_row(kKvHeads * kDimK, random).data(), t);
    add_plain_query_and_value(calibrator);
  }
  const std::vector<float> means = calibrator.finish().mean_keys;
  const auto half = means.begin() + kKvHeads * kDimK;
  EXPECT_TRUE(std::equal(means.begin(), half, half));
  EXPECT_NE(means[0], 0.0f);
}

TEST(LayerCalibrator, RefusesTooFewTokens) {
  Random random(5);
  LayerCalibrator calibrator = make_calibrator();
  for (int t = 0; t < 64; ++t) {
    EXPECT_THROW(calibrator.finish(), Error);
    calibrator.add_key(random_row(kKvHeads * kDimK, random).data(), t);
    if (t < 63) add_plain_query_and_value(calibrator);
  }
  EXPECT_THROW(calibrator.finish(), Error);  // one query and one value are missing
  calibrator.add_query(std::vector<float>(kQHeads * kDimK, 1.0f).data());
  EXPECT_THROW(calibrator.finish(), Error);
  calibrator.add_value(std::vector<float>(kKvHeads * kDimV, 1.0f).data());
  EXPECT_NO_THROW(calibrator.finish());
}

TEST(LayerCalibrator, RefusesWhatIsNotFinite) {
  const auto finish_with = [](float q, float k, float v) {
    Random random(6);
    LayerCalibrator calibrator = make_calibrator();
    for (int t = 0; t < 100; ++t) {
      std::vector<float> query = random_row(kQHeads * kDimK, random),
                         key = random_row(kKvHeads * kDimK, random);
      std::vector<float> value = random_row(kKvHeads * kDimV, random);
      if (t == 50) {
        query[70] += q;
        key[40] += k;
        value[20] += v;
      }
      calibrator.add_query(query.data());
      calibrator.add_key(key.data(), t);
      calibrator.add_value(value.data());
    }
    return calibrator.finish();
  };
  EXPECT_NO_THROW(finish_with(0, 0, 0));
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    EXPECT_THROW(finish_with(bad, 0, 0), Error);
    EXPECT_THROW(finish_with(0, bad, 0), Error);
    EXPECT_THROW(finish_with(0, 0, bad), Error);
  }
  EXPECT_THROW(finish_with(3e38f, 0, 0), Error);  // its square does not fit the profile's floats
}

TEST(LayerCalibrator, RefusesImpossibleShapes) {
  const RopeParams rope = test_rope();
  EXPECT_THROW(LayerCalibrator(0, 3, 2, 32, 32, rope), Error);
  EXPECT_THROW(LayerCalibrator(0, 4, 0, 32, 32, rope), Error);
  EXPECT_THROW(LayerCalibrator(0, 4, 2, 24, 32, rope), Error);
  EXPECT_THROW(LayerCalibrator(0, 4, 2, 32, 20, rope), Error);
  EXPECT_THROW(LayerCalibrator(0, 4, 2, 16, 32, rope), Error);  // n_rot 24 > 16
}

TEST(LayerCalibrator, CanBeMoved) {
  Random random(7);
  LayerCalibrator a = make_calibrator();
  a.add_key(random_row(kKvHeads * kDimK, random).data(), 0);
  const LayerCalibrator b = std::move(a);
  EXPECT_EQ(b.n_tokens(), 1);
}

}  // namespace
}  // namespace gtq
