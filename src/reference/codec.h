// Decoder of token rows in double precision, written from the format alone (docs/format.md):
//   key row    byte 0: bit 7 mean index c, bits 0..6 code n of the norm 2^((n - 48) / 16)
//              then per quant_group of 16 codes a little-endian bit string of 2 * width bytes
//   value row  byte 0: code n of the norm v_rms * 2^((n - 160) / 16), 0 for n = 0
//              then one little-endian bit string of head_dim_v codes
#pragma once

#include <cstdint>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/rope.h"

namespace gtq::reference {

// Sign of slot i of stream `stream` (0 keys, 1 values).
double random_sign(int stream, int i);

// Orthonormal Sylvester Hadamard transform of a power of two of numbers:
// y_i = sum_j (-1)^popcount(i & j) x_j / sqrt(n).
std::vector<double> hadamard_transform(const std::vector<double>& x);

// Codes of `width` bits each, code i in bits [i * width, (i + 1) * width) of the string, lowest bit first.
std::vector<int> read_codes(const std::uint8_t* bytes, int n_codes, int width);

// Key after RoPE at `position`: R_position mu_c + the residual. The encoder made y = H S (scale * e) / norm
// per group, so e = S H (norm * y) / scale.
std::vector<double> decode_key(const HeadPlan& plan, const RopeParams& rope, const std::uint8_t* row,
                               std::int64_t position);

// The value: v_rms * norm * S H y in parts of the largest power of two that divides head_dim_v.
std::vector<double> decode_value(const HeadPlan& plan, const std::uint8_t* row);

}  // namespace gtq::reference
