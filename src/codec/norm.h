// Nearest norm codes; the decoding half is public (gtq/codec.h).
#pragma once

#include <cstdint>

namespace gtq {

int key_norm_code(float norm);  // 0..127
std::uint8_t value_norm_byte(float norm);

}  // namespace gtq
