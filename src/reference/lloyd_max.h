// Optimal scalar quantizers (Lloyd 1957, Max 1960) in double precision, converged to rounding error.
#pragma once

#include <cstdint>
#include <vector>

namespace gtq::reference {

struct Codebook {
  std::vector<double> centroids;   // [2^width], ascending, symmetric about 0
  std::vector<double> thresholds;  // [2^width - 1], midpoints of neighbouring centroids
  double distortion = 0;           // mean squared error
};

// Quantizer of a unit Gaussian, width 1..8.
const Codebook& gaussian_codebook(int width);

// Quantizer of one coordinate of a uniform point on the unit sphere S^(dim-1), density proportional to
// (1 - x^2)^((dim - 3) / 2) on [-1, 1]; dim >= 2, width 1..8. Cached; safe to call from several threads.
const Codebook& sphere_codebook(int dim, int width);

// gaussian_codebook on a signed int8 grid: centroid = level * step, step = largest centroid / 127 as float.
struct GridCodebook {
  std::vector<std::int8_t> levels;
  float step = 0;
};
GridCodebook gaussian_grid_codebook(int width);

}  // namespace gtq::reference
