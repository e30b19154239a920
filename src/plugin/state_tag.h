// Tag of a saved row: what its bytes depend on (docs/format.md, "State row").
#pragma once

#include <cstdint>

#include "gtq/allocation.h"

namespace gtq::plugin {

// The profile's checksum with the hundredths of key and value bits in its low 20 bits.
inline std::uint64_t make_state_tag(std::uint64_t profile_checksum, const Budget& budget) {
  const auto bits = static_cast<std::uint64_t>(hundredths(budget.k_bits) << 10 | hundredths(budget.v_bits));
  return (profile_checksum & ~std::uint64_t{0xfffff}) | bits;
}

inline Budget budget_of_tag(std::uint64_t tag) {
  return {static_cast<double>(tag >> 10 & 1023) / 100, static_cast<double>(tag & 1023) / 100};
}

}  // namespace gtq::plugin
