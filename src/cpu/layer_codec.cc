#include "cpu/dispatch.h"
#include "cpu/layer_tables.h"
#include "gtq/error.h"

namespace gtq {
namespace {

constexpr std::size_t kMaxRowBytes = 1 + kMaxHeadDim * kMaxWidth / 8;

// Where a cell lies: its page of all KV heads, and its place in the page.
struct CellPlace {
  std::size_t page_offset;
  int in_page;
};

CellPlace place_of(std::int64_t cell, std::size_t page_bytes) {
  return {static_cast<std::size_t>(cell / kPageTokens) * page_bytes, static_cast<int>(cell % kPageTokens)};
}

}  // namespace

LayerCodec::Impl::Head::Head(const HeadPlan& plan, const Rope& rope)
    : key_codec(plan, rope),
      value_codec(plan),
      row_tables(plan, rope, key_codec, value_codec),
      key_layout(plan.widths),
      value_layout(plan.head_dim_v, plan.v_width),
      table_set(plan, rope, key_layout, value_layout) {}

LayerCodec::Impl::Impl(const LayerProfile& layer, const Budget& budget)
    : rope(layer.head_dim_k, layer.rope), angles(cpu::turn_angles(rope)), plans(plan_layer(layer, budget)) {
  for (const HeadPlan& plan : plans) {
    auto head = std::make_unique<Head>(plan, rope);
    head->key_offset = key_page_bytes;
    head->value_offset = value_page_bytes;
    head->key_row_offset = key_token_bytes;
    head->value_row_offset = value_token_bytes;
    key_page_bytes += head->key_layout.page_bytes;
    value_page_bytes += head->value_layout.page_bytes;
    key_token_bytes += head->key_layout.row_bytes;
    value_token_bytes += head->value_layout.row_bytes;
    heads.push_back(std::move(head));
  }
}

LayerCodec::LayerCodec(const LayerProfile& layer, const Budget& budget)
    : impl_(std::make_unique<Impl>(layer, budget)) {}
LayerCodec::~LayerCodec() = default;

int LayerCodec::n_kv_heads() const { return static_cast<int>(impl_->heads.size()); }
int LayerCodec::head_dim_k() const { return impl_->plans[0].head_dim_k; }
int LayerCodec::head_dim_v() const { return impl_->plans[0].head_dim_v; }
const Rope& LayerCodec::rope() const { return impl_->rope; }
const HeadPlan& LayerCodec::plan(int kv_head) const { return impl_->plans[kv_head]; }
const KeyCodec& LayerCodec::key_codec(int kv_head) const { return impl_->heads[kv_head]->key_codec; }
const ValueCodec& LayerCodec::value_codec(int kv_head) const { return impl_->heads[kv_head]->value_codec; }

std::size_t LayerCodec::key_page_bytes() const { return impl_->key_page_bytes; }
std::size_t LayerCodec::value_page_bytes() const { return impl_->value_page_bytes; }
std::size_t LayerCodec::key_token_bytes() const { return impl_->key_token_bytes; }
std::size_t LayerCodec::value_token_bytes() const { return impl_->value_token_bytes; }

void LayerCodec::store_keys(std::uint8_t* pages, std::int64_t cell, const float* keys, std::int32_t position,
                            HeadRange heads) const {
  const cpu::RowEncoder& encoder = *cpu::active_kernel().encoder;
  const auto [offset, in_page] = place_of(cell, impl_->key_page_bytes);
  float turn[kMaxHeadDim];
  encoder.make_turn(impl_->angles, position, turn);
  for (int h = heads.begin; h < heads.end; ++h) {
    const Impl::Head& head = *impl_->heads[h];
    std::uint8_t row[kMaxRowBytes];
    encoder.encode_key(head.row_tables.key(), keys + h * head_dim_k(), turn, row);
    head.key_layout.store(pages + offset + head.key_offset, in_page, row);
  }
}

void LayerCodec::store_values(std::uint8_t* pages, std::int64_t cell, const float* values,
                              HeadRange heads) const {
  const cpu::RowEncoder& encoder = *cpu::active_kernel().encoder;
  const auto [offset, in_page] = place_of(cell, impl_->value_page_bytes);
  for (int h = heads.begin; h < heads.end; ++h) {
    const Impl::Head& head = *impl_->heads[h];
    std::uint8_t row[kMaxRowBytes];
    encoder.encode_value(head.row_tables.value(), values + h * head_dim_v(), row);
    head.value_layout.store(pages + offset + head.value_offset, in_page, row);
  }
}

void LayerCodec::load_keys(const std::uint8_t* pages, std::int64_t cell, std::int32_t position, float* keys,
                           HeadRange heads) const {
  const auto [offset, in_page] = place_of(cell, impl_->key_page_bytes);
  float turn[kMaxHeadDim];
  cpu::active_kernel().encoder->make_turn(impl_->angles, position, turn);
  for (int h = heads.begin; h < heads.end; ++h) {
    const Impl::Head& head = *impl_->heads[h];
    std::uint8_t row[kMaxRowBytes];
    head.key_layout.load(pages + offset + head.key_offset, in_page, row);
    head.key_codec.decode(row, turn, keys + h * head_dim_k());
  }
}

void LayerCodec::load_values(const std::uint8_t* pages, std::int64_t cell, float* values,
                             HeadRange heads) const {
  const auto [offset, in_page] = place_of(cell, impl_->value_page_bytes);
  for (int h = heads.begin; h < heads.end; ++h) {
    const Impl::Head& head = *impl_->heads[h];
    std::uint8_t row[kMaxRowBytes];
    head.value_layout.load(pages + offset + head.value_offset, in_page, row);
    head.value_codec.decode(row, values + h * head_dim_v());
  }
}

void LayerCodec::store_key_rows(std::uint8_t* pages, std::int64_t cell, const std::uint8_t* rows) const {
  const auto [offset, in_page] = place_of(cell, impl_->key_page_bytes);
  for (const auto& head : impl_->heads) {
    head->key_layout.store(pages + offset + head->key_offset, in_page, rows + head->key_row_offset);
  }
}

void LayerCodec::load_key_rows(const std::uint8_t* pages, std::int64_t cell, std::uint8_t* rows) const {
  const auto [offset, in_page] = place_of(cell, impl_->key_page_bytes);
  for (const auto& head : impl_->heads) {
    head->key_layout.load(pages + offset + head->key_offset, in_page, rows + head->key_row_offset);
  }
}

void LayerCodec::store_value_rows(std::uint8_t* pages, std::int64_t cell, const std::uint8_t* rows) const {
  const auto [offset, in_page] = place_of(cell, impl_->value_page_bytes);
  for (const auto& head : impl_->heads) {
    head->value_layout.store(pages + offset + head->value_offset, in_page, rows + head->value_row_offset);
  }
}

void LayerCodec::load_value_rows(const std::uint8_t* pages, std::int64_t cell, std::uint8_t* rows) const {
  const auto [offset, in_page] = place_of(cell, impl_->value_page_bytes);
  for (const auto& head : impl_->heads) {
    head->value_layout.load(pages + offset + head->value_offset, in_page, rows + head->value_row_offset);
  }
}

}  // namespace gtq
