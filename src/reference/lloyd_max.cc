// A symmetric density is described on its positive half by a parameter u in [0, u_max]: x = x(u) rises with u,
// weight(u) du is the probability (not normalised). For the sphere u is the angle from the equator, x = sin u,
// which removes the singularity of the density at x = 1 for dim 2 and the steep edges for small dims.
//
// With centroids c_j of the positive half, thresholds t_j = (c_j + c_{j+1}) / 2 and cells between them, an
// optimal quantizer has zero gradient
//   G_j = integral over cell j of (c_j - x) weight du = 0                      (centroid condition)
// Lloyd's iteration needs about n^2 steps for n levels; Newton's method on G needs fewer than ten, since its
// matrix is tridiagonal: with h_j = c_{j+1} - c_j and f the density in x,
//   dG_j/dc_j = mass_j - (h_{j-1} f(t_{j-1}) + h_j f(t_j)) / 4,   dG_j/dc_{j+1} = -h_j f(t_j) / 4.
#include "reference/lloyd_max.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <numbers>
#include <stdexcept>
#include <utility>

namespace gtq::reference {
namespace {

struct HalfDensity {
  std::function<double(double)> x_of_u;
  std::function<double(double)> u_of_x;
  std::function<double(double)> weight;  // in u
  std::function<double(double)> slope;   // dx/du
  double u_max = 0;
  double panel = 0;  // widest interval that one quadrature panel may cover
};

HalfDensity gaussian_density() {
  HalfDensity density;
  density.x_of_u = [](double u) { return u; };
  density.u_of_x = [](double x) { return x; };
  density.weight = [](double u) { return std::exp(-0.5 * u * u); };
  density.slope = [](double) { return 1.0; };
  density.u_max = 12;  // the mass beyond is 1e-32
  density.panel = 0.5;
  return density;
}

HalfDensity sphere_density(int dim) {
  HalfDensity density;
  density.x_of_u = [](double u) { return std::sin(u); };
  density.u_of_x = [](double x) { return std::asin(x); };
  density.weight = [dim](double u) { return std::pow(std::cos(u), dim - 2); };
  density.slope = [](double u) { return std::cos(u); };
  density.u_max = std::numbers::pi / 2;
  density.panel = 0.5 / std::sqrt(dim);
  return density;
}

// Integrals over one cell around centroid c: of weight, (c - x) weight and (c - x)^2 weight. The differences
// are taken inside the integral, so that narrow cells keep full relative precision.
struct Cell {
  double mass = 0, gradient = 0, error = 0;
};

Cell integrate_cell(const HalfDensity& density, double u_low, double u_high, double c) {
  // Gauss-Legendre nodes and weights, 8 points, positive half.
  constexpr double kNodes[4] = {0.1834346424956498, 0.5255324099163290, 0.7966664774136267, 0.9602898564975363};
  constexpr double kWeights[4] = {0.3626837833783620, 0.3137066458778873, 0.2223810344533745,
                                  0.1012285362903763};
  Cell cell;
  const int panels = std::max(1, static_cast<int>(std::ceil((u_high - u_low) / density.panel)));
  const double half = (u_high - u_low) / panels / 2;
  for (int p = 0; p < panels; ++p) {
    const double middle = u_low + (2 * p + 1) * half;
    for (int i = 0; i < 8; ++i) {
      const double u = middle + (i % 2 == 0 ? half : -half) * kNodes[i / 2];
      const double weight = half * kWeights[i / 2] * density.weight(u);
      const double difference = c - density.x_of_u(u);
      cell.mass += weight;
      cell.gradient += weight * difference;
      cell.error += weight * difference * difference;
    }
  }
  return cell;
}

struct State {
  std::vector<double> centroids;
  std::vector<Cell> cells;
  double error = 0;     // sum over cells, what is minimised
  double residual = 0;  // largest distance of a centroid from the mean of its cell
};

State evaluate(const HalfDensity& density, std::vector<double> centroids) {
  State state;
  const std::size_t n = centroids.size();
  double u_low = 0;
  for (std::size_t j = 0; j < n; ++j) {
    const double u_high = j + 1 < n ? density.u_of_x((centroids[j] + centroids[j + 1]) / 2) : density.u_max;
    const Cell cell = integrate_cell(density, u_low, u_high, centroids[j]);
    state.error += cell.error;
    state.residual = std::max(state.residual, std::abs(cell.gradient / cell.mass));
    state.cells.push_back(cell);
    u_low = u_high;
  }
  state.centroids = std::move(centroids);
  return state;
}

// High-resolution optimum (Panter and Dite 1951): centroid density proportional to the cube root of f. In u:
// f^(1/3) dx = weight^(1/3) slope^(2/3) du.
std::vector<double> initial_centroids(const HalfDensity& density, int n) {
  constexpr int kSteps = 4096;
  const double du = density.u_max / kSteps;
  std::vector<double> cumulative(kSteps + 1, 0.0);
  for (int i = 0; i < kSteps; ++i) {
    const double u = (i + 0.5) * du;
    cumulative[i + 1] = cumulative[i] + std::cbrt(density.weight(u) * std::pow(density.slope(u), 2));
  }
  std::vector<double> centroids(n);
  for (int j = 0, i = 0; j < n; ++j) {
    const double target = cumulative[kSteps] * (j + 0.5) / n;
    while (cumulative[i + 1] < target) ++i;
    const double part = (target - cumulative[i]) / (cumulative[i + 1] - cumulative[i]);
    centroids[j] = density.x_of_u((i + part) * du);
  }
  return centroids;
}

// Solves the symmetric tridiagonal Newton system; returns the step to subtract from the centroids.
std::vector<double> newton_step(const HalfDensity& density, const State& state) {
  const std::size_t n = state.centroids.size();
  std::vector<double> diagonal(n), off(n, 0.0), step(n);
  for (std::size_t j = 0; j < n; ++j) {
    diagonal[j] += state.cells[j].mass;
    if (j + 1 == n) break;
    const double u = density.u_of_x((state.centroids[j] + state.centroids[j + 1]) / 2);
    const double f = density.weight(u) / density.slope(u);
    off[j] = -(state.centroids[j + 1] - state.centroids[j]) * f / 4;
    diagonal[j] += off[j];
    diagonal[j + 1] += off[j];
  }
  for (std::size_t j = 0; j < n; ++j) step[j] = state.cells[j].gradient;
  for (std::size_t j = 1; j < n; ++j) {
    const double factor = off[j - 1] / diagonal[j - 1];
    diagonal[j] -= factor * off[j - 1];
    step[j] -= factor * step[j - 1];
  }
  for (std::size_t j = n; j-- > 0;) {
    if (j + 1 < n) step[j] -= off[j] * step[j + 1];
    step[j] /= diagonal[j];
  }
  return step;
}

bool is_ordered(const std::vector<double>& centroids, double x_max) {
  double last = 0;
  for (const double c : centroids) {
    if (!(c > last && c < x_max)) return false;
    last = c;
  }
  return true;
}

// Newton's method; a step that leaves the domain or raises the error is halved, and replaced by Lloyd's
// (which always lowers the error) when halving does not help.
State optimise(const HalfDensity& density, int n) {
  constexpr int kMaxIterations = 200;
  constexpr double kTolerance = 1e-14;
  const double x_max = density.x_of_u(density.u_max);
  State state = evaluate(density, initial_centroids(density, n));
  for (int iteration = 0; iteration < kMaxIterations && state.residual > kTolerance; ++iteration) {
    const std::vector<double> step = newton_step(density, state);
    bool accepted = false;
    for (double factor = 1; factor > 1e-3 && !accepted; factor /= 2) {
      std::vector<double> trial = state.centroids;
      for (int j = 0; j < n; ++j) trial[j] -= factor * step[j];
      if (!is_ordered(trial, x_max)) continue;
      State next = evaluate(density, std::move(trial));
      accepted = next.error < state.error ||
                 (next.error < state.error * (1 + 1e-13) && next.residual < state.residual);
      if (accepted) state = std::move(next);
    }
    if (accepted) continue;
    if (state.residual < 1e-12) break;  // rounding error reached
    std::vector<double> means = state.centroids;
    for (int j = 0; j < n; ++j) means[j] -= state.cells[j].gradient / state.cells[j].mass;
    state = evaluate(density, std::move(means));
  }
  return state;
}

Codebook make_codebook(const HalfDensity& density, int width) {
  if (width < 1 || width > 8) throw std::invalid_argument("codebook width must be 1..8");
  const int half = 1 << (width - 1);
  const State state = optimise(density, half);
  double mass = 0;
  for (const Cell& cell : state.cells) mass += cell.mass;
  Codebook codebook;
  codebook.distortion = state.error / mass;
  for (int j = half; j-- > 0;) codebook.centroids.push_back(-state.centroids[j]);
  for (int j = 0; j < half; ++j) codebook.centroids.push_back(state.centroids[j]);
  for (int j = 0; j + 1 < 2 * half; ++j) {
    codebook.thresholds.push_back((codebook.centroids[j] + codebook.centroids[j + 1]) / 2);
  }
  return codebook;
}

// dim 0 stands for the Gaussian. References into a std::map stay valid when it grows.
const Codebook& cached_codebook(int dim, int width) {
  static std::mutex mutex;
  static std::map<std::pair<int, int>, Codebook> cache;
  const std::lock_guard lock(mutex);
  const auto found = cache.find({dim, width});
  if (found != cache.end()) return found->second;
  const HalfDensity density = dim == 0 ? gaussian_density() : sphere_density(dim);
  return cache.emplace(std::pair(dim, width), make_codebook(density, width)).first->second;
}

}  // namespace

const Codebook& gaussian_codebook(int width) { return cached_codebook(0, width); }

const Codebook& sphere_codebook(int dim, int width) {
  if (dim < 2) throw std::invalid_argument("sphere codebook needs dim >= 2");
  return cached_codebook(dim, width);
}

GridCodebook gaussian_grid_codebook(int width) {
  const std::vector<double>& centroids = gaussian_codebook(width).centroids;
  GridCodebook grid;
  grid.step = static_cast<float>(centroids.back() / 127);
  for (const double c : centroids) {
    grid.levels.push_back(static_cast<std::int8_t>(std::round(c / static_cast<double>(grid.step))));
  }
  return grid;
}

}  // namespace gtq::reference
