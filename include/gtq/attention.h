// Packed KV cache of one layer and attention over it, on the CPU.
//
// Cells of one stream are grouped into pages of kPageTokens. A layer's keys (values) are one array of pages,
// [stream][page][kv_head][page bytes]; the bytes inside a page are private to src/cpu (docs/architecture.md)
// and leave it only as token rows (codec.h). A key page holds 64 keys of one KV head in 64 * row bytes: no
// padding.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/codec.h"
#include "gtq/rope.h"

namespace gtq {

inline constexpr int kPageTokens = 64;
inline constexpr std::int32_t kEmptyCell = -1;  // position of a cell that holds no token

// Some KV heads of a layer.
struct HeadRange {
  int begin, end;
};

// Everything about one layer that does not change while it is served: plans, codecs, page layout, tables of the
// mean-key term. Immutable after construction and shared by threads.
class LayerCodec {
 public:
  LayerCodec(const LayerProfile& layer, const Budget& budget);
  ~LayerCodec();
  LayerCodec(const LayerCodec&) = delete;
  LayerCodec& operator=(const LayerCodec&) = delete;

  int n_kv_heads() const;
  int head_dim_k() const;
  int head_dim_v() const;
  const Rope& rope() const;
  const HeadPlan& plan(int kv_head) const;
  const KeyCodec& key_codec(int kv_head) const;
  const ValueCodec& value_codec(int kv_head) const;

  // Bytes of one page of all KV heads. Multiples of 64.
  std::size_t key_page_bytes() const;
  std::size_t value_page_bytes() const;

  // Encodes vectors of one token into a cell, those of some KV heads; `keys` and `values` are those of all,
  // head after head. `cell` counts from the start of `pages`. Heads of a page share no bytes, its cells do.
  void store_keys(std::uint8_t* pages, std::int64_t cell, const float* keys, std::int32_t position,
                  HeadRange heads) const;
  void store_values(std::uint8_t* pages, std::int64_t cell, const float* values, HeadRange heads) const;
  // And back: what the codes of a cell stand for.
  void load_keys(const std::uint8_t* pages, std::int64_t cell, std::int32_t position, float* keys,
                 HeadRange heads) const;
  void load_values(const std::uint8_t* pages, std::int64_t cell, float* values, HeadRange heads) const;

  // Token rows of all KV heads of one token, head after head.
  std::size_t key_token_bytes() const;
  std::size_t value_token_bytes() const;
  void store_key_rows(std::uint8_t* pages, std::int64_t cell, const std::uint8_t* rows) const;
  void load_key_rows(const std::uint8_t* pages, std::int64_t cell, std::uint8_t* rows) const;
  void store_value_rows(std::uint8_t* pages, std::int64_t cell, const std::uint8_t* rows) const;
  void load_value_rows(const std::uint8_t* pages, std::int64_t cell, std::uint8_t* rows) const;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// Positions of the cells of one stream, seen page by page. update() is O(kv_len); call it when positions
// changed.
struct PagePositions {
  // Regular: every occupied cell j of the page has position start + j. Empty pages are regular. Full: regular,
  // and all cells are occupied.
  struct Page {
    std::int32_t start = 0;
    bool regular = true;
    bool full = false;
  };
  std::vector<Page> pages;

  void update(const std::int32_t* positions, std::int64_t n_cells);
};

// Tokens of one stream under one codec.
struct PackedTokens {
  const LayerCodec* codec = nullptr;
  const std::uint8_t* key_pages = nullptr;  // first page of the stream
  const std::uint8_t* value_pages = nullptr;
  const std::int32_t* positions = nullptr;  // [kv_len], kEmptyCell where there is no token
  const PagePositions* page_positions = nullptr;
  std::int64_t kv_len = 0;  // cells seen, any number >= 1
};

// One attention call over one stream. Strides are in bytes. Row r of query head h attends cell j with
//   logit = softcap(sm_scale * q . k_j) + slope_h * mask[r][j]
// where softcap(x) = logit_softcap * tanh(x / logit_softcap) when logit_softcap > 0, slope_h = 1 without ALiBi,
// and a mask of -inf excludes the cell. sinks[h] adds exp(sinks[h]) to the denominator. A row with nothing to
// attend gives zeros. n_q_heads is a multiple of n_kv_heads; query head h uses KV head h / (n_q_heads /
// n_kv_heads).
//
// Some tokens may lie apart, under another budget of the same layer: slot i of `recent` holds the token of cell
// recent_cells[i], which is empty in the pages of the call itself. Its mask is that of the cell; a slot whose
// cell is not below kv_len is not attended.
struct AttentionCall : PackedTokens {
  PackedTokens recent;                         // codec == nullptr: none
  const std::int32_t* recent_cells = nullptr;  // [recent.kv_len]

  int n_q_heads = 0;
  std::int64_t n_rows = 0;   // query rows (tokens)
  const float* q = nullptr;  // q[row][head]: head_dim_k floats
  std::size_t q_row_stride = 0, q_head_stride = 0;
  const std::uint16_t* mask = nullptr;  // f16 [row][kv_len] or null
  std::size_t mask_row_stride = 0;
  const float* sinks = nullptr;  // [n_q_heads] or null
  float* out = nullptr;          // out[row][head]: head_dim_v floats
  std::size_t out_row_stride = 0, out_head_stride = 0;

  float sm_scale = 1.0f;
  float logit_softcap = 0.0f;
  float alibi_max_bias = 0.0f;  // ggml's max_bias: slopes 2^(-max_bias / n * (h + 1)), n = power of two
};

// Barrier for the threads of one call; all n threads must arrive before any goes on. Reusable.
class SpinBarrier {
 public:
  void wait(int n_threads);

 private:
  std::atomic<int> arrived_{0};
  std::atomic<int> generation_{0};
};

// Workspace for attention() with these many threads; no allocation happens inside the call.
std::size_t attention_workspace_bytes(const AttentionCall& call, int n_threads);

// Runs part `thread` of `n_threads`; every thread of the call must enter with the same arguments, workspace
// (64-byte aligned) and barrier. Results are complete when all threads have returned. The result does not
// depend on timing, only on n_threads (within float rounding).
void attention(const AttentionCall& call, void* workspace, SpinBarrier& barrier, int thread, int n_threads);

// Name of the kernel in use ("generic", ...).
std::string_view attention_kernel_name();

}  // namespace gtq
