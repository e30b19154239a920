#include "reference/haar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace gtq::reference {
namespace {

TEST(Haar, RotationIsOrthonormal) {
  for (const int dim : {2, 6, 64, 128}) {
    const std::vector<double> q = haar_rotation(dim, 42);
    for (int i = 0; i < dim; ++i) {
      for (int j = 0; j <= i; ++j) {
        double dot = 0;
        for (int k = 0; k < dim; ++k) dot += q[i * dim + k] * q[j * dim + k];
        ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-12) << "rows " << i << " and " << j << " of " << dim;
      }
    }
  }
}

TEST(Haar, SameSeedSameRotation) {
  EXPECT_EQ(haar_rotation(16, 1), haar_rotation(16, 1));
  EXPECT_NE(haar_rotation(16, 1), haar_rotation(16, 2));
}

// Entries of a Haar rotation are coordinates of uniform sphere points: mean 0, variance 1/d, and fourth moment
// 3 / (d (d + 2)).
TEST(Haar, EntriesHaveTheMomentsOfASphere) {
  constexpr int kDim = 4;
  double sum = 0, square = 0, fourth = 0;
  int n = 0;
  for (int seed = 0; seed < 2000; ++seed) {
    for (const double x : haar_rotation(kDim, seed)) {
      sum += x;
      square += x * x;
      fourth += x * x * x * x;
      ++n;
    }
  }
  EXPECT_NEAR(sum / n, 0, 0.01);
  EXPECT_NEAR(square / n, 1.0 / kDim, 1e-9);  // rows are unit vectors
  EXPECT_NEAR(fourth / n, 3.0 / (kDim * (kDim + 2)), 0.003);
}

TEST(Haar, GaussianNumbersHaveUnitVariance) {
  const std::vector<double> x = gaussian_numbers(100001, 3);
  ASSERT_EQ(x.size(), 100001u);
  double sum = 0, square = 0, fourth = 0;
  for (const double value : x) {
    sum += value;
    square += value * value;
    fourth += value * value * value * value;
  }
  EXPECT_NEAR(sum / 100001, 0, 0.015);
  EXPECT_NEAR(square / 100001, 1, 0.02);
  EXPECT_NEAR(fourth / 100001, 3, 0.15);
}

}  // namespace
}  // namespace gtq::reference
