#include "reference/paper.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "gtq/error.h"
#include "reference/haar.h"
#include "reference/half.h"
#include "reference/lloyd_max.h"
#include "reference/rotary.h"

namespace gtq::reference {
namespace {

std::vector<float> gaussian_floats(int n, std::uint64_t seed) {
  const std::vector<double> x = gaussian_numbers(n, seed);
  return {x.begin(), x.end()};
}

double squared(double x) { return x * x; }

// Mean of |x - x_hat|^2 / |x|^2 over Gaussian rows, whose directions are uniform on the sphere.
double relative_error(const TqMse& quantizer, int n_rows) {
  const int dim = quantizer.dim();
  const std::vector<float> rows = gaussian_floats(n_rows * dim, 5);
  std::vector<float> out(dim);
  double sum = 0;
  for (int r = 0; r < n_rows; ++r) {
    const float* in = &rows[r * dim];
    quantizer.simulate(in, out.data());
    double error = 0, energy = 0;
    for (int i = 0; i < dim; ++i) {
      error += squared(static_cast<double>(in[i]) - out[i]);
      energy += squared(in[i]);
    }
    sum += error / energy;
  }
  return sum / n_rows;
}

// One KV head whose queries and keys share strong rope_blocks, as real heads do.
LayerProfile skewed_layer(int head_dim, double spread) {
  LayerProfile layer;
  layer.n_q_heads = 2;
  layer.n_kv_heads = 1;
  layer.head_dim_k = layer.head_dim_v = head_dim;
  layer.rope.mode = RopeMode::kNeox;
  layer.rope.n_rot = head_dim;
  const std::vector<double> x = gaussian_numbers(3 * head_dim / 2, 11);
  for (int i = 0; i < head_dim / 2; ++i) {
    layer.energy_q.push_back(static_cast<float>(std::exp(spread * (x[3 * i] + x[3 * i + 1]))));
    layer.energy_k.push_back(static_cast<float>(std::exp(spread * (x[3 * i] + x[3 * i + 2]))));
  }
  return layer;
}

// Variance of the logit error: mean over keys of sum_i E_q[i] |k_i - k_hat_i|^2, for keys with energies E_k.
template <typename Quantizer>
double weighted_error(const Quantizer& quantizer, const LayerProfile& layer, int n_rows) {
  const int dim = layer.head_dim_k;
  const std::vector<RopeBlock> blocks = rope_blocks(dim, layer.rope);
  std::vector<float> key(dim), out(dim);
  double sum = 0;
  for (int r = 0; r < n_rows; ++r) {
    const std::vector<float> noise = gaussian_floats(dim, 1000 + r);
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      key[blocks[i].first] = noise[2 * i] * std::sqrt(layer.energy_k[i] / 2);
      key[blocks[i].second] = noise[2 * i + 1] * std::sqrt(layer.energy_k[i] / 2);
    }
    quantizer.simulate(key.data(), out.data());
    for (std::size_t i = 0; i < blocks.size(); ++i) {
      const int a = blocks[i].first, b = blocks[i].second;
      sum += layer.energy_q[i] * (squared(key[a] - out[a]) + squared(key[b] - out[b]));
    }
  }
  return sum / n_rows;
}

TEST(TqMse, ErrorIsTheOneOfTheCodebook) {
  for (const int dim : {64, 128}) {
    for (int bits = 1; bits <= 4; ++bits) {
      // |y_hat|^2 and y . y_hat are both 1 - D on average, so a result of unit length is off by
      // 2 (1 - sqrt(1 - D)).
      const double d = dim * sphere_codebook(dim, bits).distortion;
      const double expected = 2 * (1 - std::sqrt(1 - d));
      EXPECT_NEAR(relative_error(TqMse(dim, bits, 7), 2000) / expected, 0.98, 0.03) << dim << ", " << bits;
    }
  }
}

// With narrow cells the error at y is proportional to f(y)^(-2/3), and norm correction removes its part along
// y: a share of 3/d.
TEST(TqMse, EightBitsReachTheHighResolutionLimit) {
  for (const int dim : {64, 128}) {
    const double expected = dim * sphere_codebook(dim, 8).distortion * (1 - 3.0 / dim);
    EXPECT_NEAR(relative_error(TqMse(dim, 8, 7), 4000) / expected, 1, 0.03) << dim;
  }
}

TEST(TqMse, ResultHasTheStoredNorm) {
  for (const int dim : {2, 10, 128}) {
    const TqMse quantizer(dim, 3, 1);
    std::vector<float> row = gaussian_floats(dim, 2);
    double norm = 0, norm_out = 0;
    for (const float x : row) norm += squared(x);
    quantizer.simulate(row.data(), row.data());
    for (const float x : row) norm_out += squared(x);
    EXPECT_NEAR(std::sqrt(norm_out) / round_to_half(std::sqrt(norm)), 1, 1e-6);
  }
}

TEST(TqMse, WorksInPlaceAndOnOddRows) {
  const TqMse quantizer(32, 4, 9);
  std::vector<float> row = gaussian_floats(32, 4), out(32);
  quantizer.simulate(row.data(), out.data());
  quantizer.simulate(row.data(), row.data());
  EXPECT_EQ(row, out);

  const std::vector<float> zeros(32, 0.0f);
  quantizer.simulate(zeros.data(), out.data());
  EXPECT_EQ(out, zeros);

  row[3] = std::numeric_limits<float>::quiet_NaN();
  row[5] = std::numeric_limits<float>::infinity();
  quantizer.simulate(row.data(), out.data());
  for (const float x : out) EXPECT_TRUE(std::isfinite(x));
}

TEST(TqMse, TrueBitsCountTheNorm) {
  EXPECT_DOUBLE_EQ(TqMse(128, 3, 0).true_bits(), 3.125);
  EXPECT_DOUBLE_EQ(TqMse(64, 2, 0).true_bits(), 2.25);
  EXPECT_THROW(TqMse(128, 9, 0), Error);
  EXPECT_THROW(TqMse(1, 4, 0), Error);
}

double allocation_cost(const std::vector<double>& energies, const std::vector<int>& widths) {
  double cost = 0;
  for (std::size_t i = 0; i < energies.size(); ++i) cost += energies[i] * std::pow(4.0, -widths[i]);
  return cost;
}

// Least cost over all widths 1..8 with the given sum.
double best_cost(const std::vector<double>& energies, int sum) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<int> widths(energies.size(), 1);
  for (;;) {
    int total = 0;
    for (const int width : widths) total += width;
    if (total == sum) best = std::min(best, allocation_cost(energies, widths));
    std::size_t i = 0;
    while (i < widths.size() && widths[i] == 8) widths[i++] = 1;
    if (i == widths.size()) return best;
    ++widths[i];
  }
}

TEST(BlockGtq, GreedyWidthsAreOptimal) {
  for (int trial = 0; trial < 20; ++trial) {
    std::vector<double> energies = gaussian_numbers(5, 100 + trial);
    for (double& energy : energies) energy = std::exp(4 * energy);
    for (const int avg_bits : {1, 2, 3, 4, 7, 8}) {
      const std::vector<int> widths = greedy_widths(energies, avg_bits);
      int sum = 0;
      for (const int width : widths) sum += width;
      ASSERT_EQ(sum, 5 * avg_bits);
      EXPECT_NEAR(allocation_cost(energies, widths) / best_cost(energies, sum), 1, 1e-12);
    }
  }
}

TEST(BlockGtq, BeatsTqMseOnSkewedEnergies) {
  for (const int head_dim : {64, 128}) {
    const LayerProfile layer = skewed_layer(head_dim, 1.0);
    for (int bits = 2; bits <= 4; ++bits) {
      const double block = weighted_error(BlockGtq(layer, 0, bits), layer, 200);
      const double whole = weighted_error(TqMse(head_dim, bits, 3), layer, 200);
      EXPECT_LT(block, 0.75 * whole) << head_dim << ", " << bits << " bits";
      EXPECT_GT(block, 0.1 * whole) << "suspiciously good";
    }
  }
}

TEST(BlockGtq, EqualEnergiesGiveOneGroup) {
  LayerProfile layer = skewed_layer(64, 0.0);
  const BlockGtq quantizer(layer, 0, 3);
  EXPECT_EQ(quantizer.widths(), std::vector<int>(32, 3));
  EXPECT_DOUBLE_EQ(quantizer.true_bits(), 3.25);
}

TEST(BlockGtq, TrueBitsCountOneNormPerGroup) {
  LayerProfile layer = skewed_layer(64, 0.0);
  for (int i = 0; i < 8; ++i) layer.energy_k[i] = 100;  // 101 : 2, a bit or two more for the first 8
  const BlockGtq quantizer(layer, 0, 4);
  std::vector<int> count(9, 0);
  for (const int width : quantizer.widths()) ++count[width];
  int n_groups = 0;
  for (const int n : count) n_groups += n > 0;
  EXPECT_GE(n_groups, 2);
  EXPECT_DOUBLE_EQ(quantizer.true_bits(), 4 + 16.0 * n_groups / 64);
  for (int i = 0; i < 8; ++i) EXPECT_GT(quantizer.widths()[i], 4);
}

TEST(BlockGtq, GroupsFollowTheRopeGeometry) {
  // One block of great energy gets 8 bits: its two dims, and no others, come out nearly exact.
  for (const RopeMode mode : {RopeMode::kInterleaved, RopeMode::kNeox}) {
    LayerProfile layer = skewed_layer(64, 0.0);
    layer.rope.mode = mode;
    layer.rope.n_rot = 32;
    layer.energy_k[5] = 1e9f;
    layer.energy_k[20] = 1e9f;  // past n_rot: neighbours in either mode
    const BlockGtq quantizer(layer, 0, 2);
    const int second = mode == RopeMode::kNeox ? 5 + 16 : 11;
    const int first = mode == RopeMode::kNeox ? 5 : 10;
    std::vector<double> error(64, 0.0);
    for (int r = 0; r < 50; ++r) {
      const std::vector<float> row = gaussian_floats(64, 50 + r);
      std::vector<float> out(64);
      quantizer.simulate(row.data(), out.data());
      for (int i = 0; i < 64; ++i) error[i] += squared(row[i] - out[i]) / 50;
    }
    for (int i = 0; i < 64; ++i) {
      if (i == first || i == second || i == 40 || i == 41) {
        EXPECT_LT(error[i], 1e-3) << i;
      } else {
        EXPECT_GT(error[i], 1e-2) << i;
      }
    }
  }
}

TEST(BlockGtq, RefusesMissingEnergies) {
  LayerProfile layer = skewed_layer(64, 1.0);
  EXPECT_THROW(BlockGtq(layer, 1, 3), Error);
  EXPECT_THROW(BlockGtq(layer, 0, 9), Error);
  layer.energy_q.resize(10);
  EXPECT_THROW(BlockGtq(layer, 0, 3), Error);
}

TEST(BlockGtq, AModelIsReadyInTime) {
  const auto start = std::chrono::steady_clock::now();
  for (int layer_index = 0; layer_index < 28; ++layer_index) {
    LayerProfile layer = skewed_layer(128, 0.1 * layer_index);
    layer.layer = layer_index;
    const BlockGtq keys(layer, 0, 3);
    const TqMse values(128, 3, 1);
  }
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_LT(elapsed.count(), 3.0 * 10);  // 0.1 s when optimised; room for sanitizers and busy machines
}

}  // namespace
}  // namespace gtq::reference
