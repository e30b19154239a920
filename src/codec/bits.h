// Little-endian bit strings of codes: code i occupies bits [i * width, (i + 1) * width) of the string. Eight
// codes at a time are the bytes of a 64-bit number whose fields are joined in pairs, three times:
//
//   8 fields of 8 bits, width w in each  ->  4 fields of 16 with 2 w  ->  2 of 32 with 4 w  ->  8 w bits
//
// n is a multiple of 8.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace gtq {

static_assert(std::endian::native == std::endian::little);

// Pairs of fields of n bits that hold `width` bits each become one.
inline std::uint64_t join_fields(std::uint64_t x, int n, int width) {
  const std::uint64_t low = ~std::uint64_t{0} / ((std::uint64_t{1} << n) + 1);
  return (x & low) | (x & ~low) >> (n - width);
}

inline std::uint64_t part_fields(std::uint64_t x, int n, int width) {
  const std::uint64_t every_pair =
      ~std::uint64_t{0} / (n == 32 ? ~std::uint64_t{0} : (std::uint64_t{1} << 2 * n) - 1);
  const std::uint64_t low = ((std::uint64_t{1} << width) - 1) * every_pair;
  return (x & low) | (x & ~low) << (n - width);
}

inline void pack_codes(const std::uint8_t* codes, int n, int width, std::uint8_t* out) {
  for (int i = 0; i < n; i += 8, out += width) {
    std::uint64_t x;
    std::memcpy(&x, codes + i, 8);
    x = join_fields(join_fields(join_fields(x, 8, width), 16, 2 * width), 32, 4 * width);
    for (int byte = 0; byte < width; ++byte) out[byte] = static_cast<std::uint8_t>(x >> (8 * byte));
  }
}

// Eight codes from the low 8 * width bits, the bytes of the result.
inline std::uint64_t part_eight(std::uint64_t x, int width) {
  return part_fields(part_fields(part_fields(x, 32, 4 * width), 16, 2 * width), 8, width);
}

inline std::uint64_t unpack_eight(const std::uint8_t* in, int width) {
  std::uint64_t x = 0;
  for (int byte = 0; byte < width; ++byte) x |= std::uint64_t{in[byte]} << (8 * byte);
  return part_eight(x, width);
}

inline void unpack_codes(const std::uint8_t* in, int n, int width, std::uint8_t* codes) {
  for (int i = 0; i < n; i += 8, in += width) {
    const std::uint64_t x = unpack_eight(in, width);
    std::memcpy(codes + i, &x, 8);
  }
}

}  // namespace gtq
