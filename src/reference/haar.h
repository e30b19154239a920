// Random numbers and random rotations from a seed, the same on every platform.
#pragma once

#include <cstdint>
#include <vector>

namespace gtq::reference {

// Output of the finalizer of splitmix64 (Steele, Lea and Flood 2014) for one state.
std::uint64_t splitmix64_mix(std::uint64_t state);

// n independent unit Gaussian numbers.
std::vector<double> gaussian_numbers(std::int64_t n, std::uint64_t seed);

// Orthogonal matrix [dim][dim] with Haar distribution: Q of the QR decomposition of a Gaussian matrix, with
// the diagonal of R positive (Mezzadri 2007).
std::vector<double> haar_rotation(int dim, std::uint64_t seed);

}  // namespace gtq::reference
