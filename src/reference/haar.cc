#include "reference/haar.h"

#include <cmath>
#include <numbers>

namespace gtq::reference {
namespace {

constexpr std::uint64_t kGamma = 0x9E3779B97F4A7C15;

double dot(const double* a, const double* b, int n) {
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

std::uint64_t splitmix64_mix(std::uint64_t state) {
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

std::vector<double> gaussian_numbers(std::int64_t n, std::uint64_t seed) {
  std::uint64_t state = seed;
  const auto uniform = [&state] {  // in (0, 1]
    state += kGamma;
    return std::ldexp(static_cast<double>(splitmix64_mix(state) >> 11) + 1, -53);
  };
  std::vector<double> numbers;
  numbers.reserve(n + 1);
  while (static_cast<std::int64_t>(numbers.size()) < n) {  // Box and Muller 1958
    const double radius = std::sqrt(-2 * std::log(uniform()));
    const double angle = 2 * std::numbers::pi * uniform();
    numbers.push_back(radius * std::cos(angle));
    numbers.push_back(radius * std::sin(angle));
  }
  numbers.resize(n);
  return numbers;
}

std::vector<double> haar_rotation(int dim, std::uint64_t seed) {
  std::vector<double> q = gaussian_numbers(static_cast<std::int64_t>(dim) * dim, seed);
  for (int i = 0; i < dim; ++i) {
    double* row = &q[static_cast<std::size_t>(i) * dim];
    for (int pass = 0; pass < 2; ++pass) {  // the second pass removes what rounding left in the first
      for (int j = 0; j < i; ++j) {
        const double* other = &q[static_cast<std::size_t>(j) * dim];
        const double part = dot(row, other, dim);
        for (int k = 0; k < dim; ++k) row[k] -= part * other[k];
      }
    }
    const double norm = std::sqrt(dot(row, row, dim));
    for (int k = 0; k < dim; ++k) row[k] /= norm;
  }
  return q;
}

}  // namespace gtq::reference
