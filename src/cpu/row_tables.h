// Tables that a row encoder needs for one KV head, derived from its HeadPlan.
#pragma once

#include <vector>

#include "cpu/row_encoder.h"
#include "gtq/codec.h"

namespace gtq::cpu {

// Owns what its encodings point to; plan and codecs must outlive it.
class RowTables {
 public:
  RowTables(const HeadPlan& plan, const Rope& rope, const KeyCodec& key_codec, const ValueCodec& value_codec);
  RowTables(const RowTables&) = delete;
  RowTables& operator=(const RowTables&) = delete;

  const KeyEncoding& key() const { return key_; }
  const ValueEncoding& value() const { return value_; }

 private:
  KeyEncoding key_{};
  ValueEncoding value_{};
  std::vector<float> key_gain_, value_gain_, weight_;
};

TurnAngles turn_angles(const Rope& rope);

}  // namespace gtq::cpu
