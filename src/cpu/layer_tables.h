// Tables that a page kernel needs for one KV head, derived from its HeadPlan.
#pragma once

#include <memory>
#include <vector>

#include "cpu/kernel_api.h"
#include "cpu/page_layout.h"
#include "cpu/row_tables.h"
#include "gtq/attention.h"

namespace gtq::cpu {

// Owns what its HeadTables point to.
class HeadTableSet {
 public:
  HeadTableSet(const HeadPlan& plan, const Rope& rope, const KeyPageLayout& keys,
               const ValuePageLayout& values);
  HeadTableSet(HeadTableSet&&) noexcept = default;

  const HeadTables& tables() const { return tables_; }

 private:
  void build_mean(const HeadPlan& plan, const Rope& rope);

  HeadTables tables_{};
  std::vector<float> query_gain_, output_gain_, norms_;
  std::vector<std::uint16_t> query_dims_, mean_dims_;
  std::vector<double> turns_;
  std::vector<float> means_, even_, odd_, all_orders_, low_orders_;
};

}  // namespace gtq::cpu

namespace gtq {

struct LayerCodec::Impl {
  Impl(const LayerProfile& layer, const Budget& budget);

  struct Head {
    Head(const HeadPlan& plan, const Rope& rope);

    KeyCodec key_codec;
    ValueCodec value_codec;
    cpu::RowTables row_tables;
    cpu::KeyPageLayout key_layout;
    cpu::ValuePageLayout value_layout;
    cpu::HeadTableSet table_set;
    std::size_t key_offset = 0, value_offset = 0;  // of its page in a page of all KV heads
    std::size_t key_row_offset = 0, value_row_offset = 0;
  };

  Rope rope;
  cpu::TurnAngles angles;
  std::vector<HeadPlan> plans;
  std::vector<std::unique_ptr<Head>> heads;
  std::size_t key_page_bytes = 0, value_page_bytes = 0;
  std::size_t key_token_bytes = 0, value_token_bytes = 0;
};

}  // namespace gtq
