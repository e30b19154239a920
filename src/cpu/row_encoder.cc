#include "cpu/row_encoder.h"

#include "gtq/codec.h"

namespace gtq::cpu {

const RowEncoder kPlainEncoder = {
    [](const TurnAngles& angles, std::int64_t position, float* turn) {
      angles.rope->make_turn(position, turn);
    },
    [](const KeyEncoding& e, const float* key, const float* turn, std::uint8_t* row) {
      e.codec->encode(key, turn, row);
    },
    [](const ValueEncoding& e, const float* value, std::uint8_t* row) { e.codec->encode(value, row); }};

int nearer_mean(const KeyEncoding& e, const float* key, const float* means) {
  return e.codec->nearer_mean(key, means);
}

}  // namespace gtq::cpu
