#include "plugin/wide_row.h"

#include <algorithm>

namespace gtq::plugin {
namespace {

constexpr unsigned kSign = 0x8000, kLargest = 0x7bff;

}  // namespace

int wide_row_bits(std::int64_t n) {
  return 16 - static_cast<int>((8 * static_cast<std::int64_t>(kStateHeaderBytes) + n - 1) / n);
}

void write_wide_row(const std::uint16_t* values, std::int64_t n, std::uint8_t* out) {
  const int bits = wide_row_bits(n), dropped = 16 - bits;
  std::uint32_t pending = 0;
  int n_pending = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    // f16 magnitudes are ordered as the integers that they are stored as.
    const unsigned rounded = ((values[i] & ~kSign) + (1u << dropped >> 1)) >> dropped;
    const unsigned code = (values[i] & kSign) >> dropped | std::min(rounded, kLargest >> dropped);
    pending |= code << n_pending;
    for (n_pending += bits; n_pending >= 8; n_pending -= 8, pending >>= 8) {
      *out++ = static_cast<std::uint8_t>(pending);
    }
  }
  if (n_pending > 0) *out = static_cast<std::uint8_t>(pending);
}

void read_wide_row(const std::uint8_t* in, std::int64_t n, std::uint16_t* values) {
  const int bits = wide_row_bits(n);
  std::uint32_t pending = 0;
  int n_pending = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    for (; n_pending < bits; n_pending += 8) pending |= static_cast<std::uint32_t>(*in++) << n_pending;
    values[i] = static_cast<std::uint16_t>(pending << (16 - bits));
    pending >>= bits;
    n_pending -= bits;
  }
}

}  // namespace gtq::plugin
