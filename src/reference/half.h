// IEEE 754 binary16 by its definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

namespace gtq::reference {

inline double half_to_double(std::uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int mantissa = bits & 1023;
  double magnitude = 0;
  if (exponent == 31) {
    magnitude =
        mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(mantissa, -24);
  } else {
    magnitude = std::ldexp(1024 + mantissa, exponent - 25);
  }
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

// The binary16 value nearest to x (ties to even), largest finite value where x is beyond it. x >= 0.
inline double round_to_half(double x) {
  constexpr double kLargest = 65504;
  if (x >= kLargest) return kLargest;
  int exponent = 0;
  std::frexp(x, &exponent);
  const int unit = std::max(exponent - 11, -24);  // log2 of the spacing of binary16 at x
  return std::ldexp(std::nearbyint(std::ldexp(x, -unit)), unit);
}

}  // namespace gtq::reference
