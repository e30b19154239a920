// A staged row of f16 values in a saved state. A state row is as long as the values themselves but begins with
// a header of 16 bytes (docs/format.md, "State row"): each value gives up its lowest bits, one where a row has
// 128 values or more.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gtq::plugin {

inline constexpr std::size_t kStateHeaderBytes = 16;

// Bits that a value of a row of n has in a state, sign included. n is a multiple of 16.
int wide_row_bits(std::int64_t n);

// n f16 values <-> 2 n - kStateHeaderBytes bytes. Values are rounded to the nearest; finite ones stay finite.
void write_wide_row(const std::uint16_t* values, std::int64_t n, std::uint8_t* out);
void read_wide_row(const std::uint8_t* in, std::int64_t n, std::uint16_t* values);

}  // namespace gtq::plugin
