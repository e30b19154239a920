// What encoders choose, against a search in double precision over the norms that docs/format.md says are tried.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/codec.h"
#include "gtq/rope.h"
#include "reference/codec.h"
#include "reference/lloyd_max.h"

namespace gtq {
namespace {

using reference::random_sign;
using Vector = std::vector<double>;

constexpr double kValueNormZero = 160, kKeyNormZero = 48;

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int below(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  std::vector<float> gaussians(int n, float scale) {
    std::vector<float> x(n);
    for (float& value : x) value = scale * normal_(engine_);
    return x;
  }

 private:
  std::mt19937 engine_;
  std::normal_distribution<float> normal_;
};

HeadPlan random_plan(Random& random, int head_dim, int v_width) {
  LayerProfile layer;
  layer.n_q_heads = layer.n_kv_heads = 1;
  layer.head_dim_k = layer.head_dim_v = head_dim;
  layer.rope.n_rot = head_dim;
  for (const float x : random.gaussians(head_dim / 2, 1.5f)) layer.energy_q.push_back(std::exp(x));
  for (const float x : random.gaussians(head_dim / 2, 1.5f)) layer.energy_e.push_back(std::exp(x));
  layer.energy_k = layer.energy_e;
  layer.mean_keys = random.gaussians(kMeans * head_dim, 1.0f);
  layer.rms_v = {0.7f};
  return plan_layer(layer, {3.0, 1.0 * v_width})[0];
}

double norm_of(double code, double zero) { return std::exp2((code - zero) / 16); }
double code_of(double norm, double zero) { return std::round(16 * std::log2(norm) + zero); }

double nearest_centroid(double x, int width) {
  const auto& book = reference::gaussian_grid_codebook(width);
  double best = INFINITY;
  for (const int level : book.levels) {
    const double centroid = level * static_cast<double>(book.step);
    if (std::abs(x - centroid) < std::abs(x - best)) best = centroid;
  }
  return best;
}

// Errors of the encoder over those of the search in double precision. A number next to a threshold may get
// either code, which after the norm is fitted is a little better or worse, so only the mean of ratios is 1.
struct Errors {
  double sum = 0;
  int n = 0;

  void add(double of_encoder, double of_search) {
    EXPECT_LT(of_encoder, 1.3 * of_search);
    sum += of_encoder / of_search;
    ++n;
  }
  void expect_equal() const { EXPECT_NEAR(sum / n, 1, 2e-3); }
};

double dot(const Vector& a, const Vector& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

// H S x in runs of n_run numbers.
Vector transformed(const Vector& x, int stream, int n_run) {
  Vector y;
  for (std::size_t begin = 0; begin < x.size(); begin += n_run) {
    Vector run;
    for (int i = 0; i < n_run; ++i) {
      run.push_back(random_sign(stream, static_cast<int>(begin) + i) * x[begin + i]);
    }
    const Vector turned = reference::hadamard_transform(run);
    y.insert(y.end(), turned.begin(), turned.end());
  }
  return y;
}

// The largest squared cosine between a value and its codes that the five norms allow.
double best_cosine(const HeadPlan& plan, const std::vector<float>& value) {
  Vector x;
  for (const float v : value) x.push_back(static_cast<double>(v) / static_cast<double>(plan.v_rms));
  const int d = plan.head_dim_v;
  const Vector y = transformed(x, 1, d & -d);
  const double middle = code_of(std::sqrt(dot(y, y) / d), kValueNormZero);
  double best = 0;
  for (int step = -4; step <= 4; step += 2) {
    Vector c;
    for (const double number : y) {
      c.push_back(nearest_centroid(number / norm_of(middle + step, kValueNormZero), plan.v_width));
    }
    best = std::max(best, dot(y, c) * dot(y, c) / (dot(c, c) * dot(y, y)));
  }
  return best;
}

TEST(Encoding, ValuesHaveTheBestCodesAndTheirOwnLengthAlongThem) {
  Random random(1);
  Errors errors;
  for (int i = 0; i < 600; ++i) {
    const int dims[] = {16, 64, 80, 128};
    const HeadPlan plan = random_plan(random, dims[i % 4], 1 + i % 6);
    const std::vector<float> value = random.gaussians(plan.head_dim_v, 0.1f + 0.01f * static_cast<float>(i));
    const ValueCodec codec(plan);
    std::vector<std::uint8_t> row(codec.row_bytes());
    codec.encode(value.data(), row.data());
    const Vector decoded = reference::decode_value(plan, row.data()), x(value.begin(), value.end());
    const double along = dot(x, decoded) / dot(x, x);
    EXPECT_LT(std::abs(std::log2(along)), 1.001 / 32) << "half a step of the norm byte";
    const double cosine = along * dot(x, decoded) / dot(decoded, decoded);
    errors.add(1 - cosine, 1 - best_cosine(plan, value));
  }
  errors.expect_equal();
}

// Weighted squared error of transformed residuals y at one norm for their codes, and the norm byte for these.
double key_error(const KeyCodec& codec, const HeadPlan& plan, const Vector& y, double norm) {
  Vector c;
  double yc = 0, cc = 0;
  for (std::size_t slot = 0; slot < y.size(); ++slot) {
    const double weight = static_cast<double>(codec.group_weights()[slot / kGroupDims]);
    c.push_back(nearest_centroid(y[slot] / norm, plan.widths[slot / kGroupDims]));
    yc += weight * y[slot] * c[slot];
    cc += weight * c[slot] * c[slot];
  }
  const double fitted = norm_of(std::clamp(code_of(yc / cc, kKeyNormZero), 0.0, 127.0), kKeyNormZero);
  double error = 0;
  for (std::size_t slot = 0; slot < y.size(); ++slot) {
    const double weight = static_cast<double>(codec.group_weights()[slot / kGroupDims]);
    error += weight * (y[slot] - fitted * c[slot]) * (y[slot] - fitted * c[slot]);
  }
  return error;
}

TEST(Encoding, KeysHaveTheLeastErrorOfFiveNorms) {
  Random random(2);
  Errors errors;
  for (int i = 0; i < 400; ++i) {
    const int dims[] = {16, 64, 80, 128};
    const HeadPlan plan = random_plan(random, dims[i % 4], 3);
    RopeParams params;
    params.n_rot = plan.head_dim_k;
    const Rope rope(plan.head_dim_k, params);
    const KeyCodec codec(plan, rope);
    const std::vector<float> key = random.gaussians(plan.head_dim_k, 0.5f + 0.01f * static_cast<float>(i));
    std::vector<std::uint8_t> row(codec.row_bytes());
    codec.encode(key.data(), 100 * i, row.data());

    const Vector decoded = reference::decode_key(plan, params, row.data(), 100 * i);
    row[0] = static_cast<std::uint8_t>(row[0] - 16);  // an octave less: half way to the mean key
    const Vector half_way = reference::decode_key(plan, params, row.data(), 100 * i);
    Vector residual, error;
    for (int slot = 0; slot < plan.head_dim_k; ++slot) {
      const int dim = plan.dims[slot];
      const double mean = 2 * half_way[dim] - decoded[dim], scale = static_cast<double>(plan.scale[slot]);
      residual.push_back(scale * (static_cast<double>(key[dim]) - mean));
      error.push_back(scale * (static_cast<double>(key[dim]) - decoded[dim]));
    }
    const Vector y = transformed(residual, 0, kGroupDims);
    double total = 0, weights = 0, actual = 0;
    for (std::size_t slot = 0; slot < y.size(); ++slot) {
      const double weight = static_cast<double>(codec.group_weights()[slot / kGroupDims]);
      total += weight * y[slot] * y[slot];
      weights += weight;
      actual += weight * error[slot] * error[slot];
    }
    const double middle = code_of(std::sqrt(total / weights), kKeyNormZero);
    double least = INFINITY;
    for (int step = -4; step <= 4; step += 2) {
      least = std::min(least, key_error(codec, plan, y, norm_of(middle + step, kKeyNormZero)));
    }
    errors.add(actual, least);
  }
  errors.expect_equal();
}

}  // namespace
}  // namespace gtq
