// Little-endian bit strings of codes: code i occupies bits [i * width, (i + 1) * width) of the string.
#pragma once

#include <cstdint>

namespace gtq {

inline void pack_codes(const std::uint8_t* codes, int n, int width, std::uint8_t* out) {
  unsigned pending = 0;
  int n_bits = 0;
  for (int i = 0; i < n; ++i) {
    pending |= static_cast<unsigned>(codes[i]) << n_bits;
    for (n_bits += width; n_bits >= 8; n_bits -= 8) {
      *out++ = static_cast<std::uint8_t>(pending);
      pending >>= 8;
    }
  }
}

inline void unpack_codes(const std::uint8_t* in, int n, int width, std::uint8_t* codes) {
  const unsigned mask = (1u << width) - 1;
  unsigned pending = 0;
  int n_bits = 0;
  for (int i = 0; i < n; ++i) {
    for (; n_bits < width; n_bits += 8) pending |= static_cast<unsigned>(*in++) << n_bits;
    codes[i] = static_cast<std::uint8_t>(pending & mask);
    pending >>= width;
    n_bits -= width;
  }
}

}  // namespace gtq
