// The integer program behind a plan: which widths minimise the sum of cost * distortion under a budget of bits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace gtq {

// Widths in kMinWidth..kMaxWidth, one per cost, that sum to `n_bits` (which must be reachable). Greedy by
// marginal gain: exact, since the distortion is convex in the width. Among equal gains the last one is served
// first, so that ascending costs give ascending widths.
std::vector<std::uint8_t> allocate_widths(std::span<const double> costs, int n_bits);

}  // namespace gtq
