// Packed KV cache of one layer on an NVIDIA GPU (compute capability 8.0 and newer, those that the library was
// built for: GTQ_CUDA_ARCHITECTURES): store, attention, state rows.
//
// All pointers named here are device pointers unless a comment says otherwise; every call only launches kernels
// on `stream`: no allocation, no synchronization, no host memory read later. All calls can be captured into a
// CUDA graph. A shape that is not supported and a launch that fails throw gtq::Error.
//
// Keys (values) are one array of pages, [page][kv_head][page bytes of the head], with the sizes of LayerCodec:
// 64 keys of a head take 64 * row bytes. The bytes inside a page are those of src/cuda/page_layout.h, not those
// of the CPU; token rows (docs/format.md) are the interchange. Page arrays are 128-byte aligned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "gtq/attention.h"

struct CUstream_st;

namespace gtq::cuda {

using Stream = CUstream_st*;  // cudaStream_t

enum class Type { kF32, kF16, kBf16 };

// Which positions the 64 cells of a page hold. Regular: every occupied cell j has position start + j.
struct alignas(16) PageSummary {
  std::int32_t start = 0;
  std::int32_t regular = 1;
  std::uint64_t occupied = 0;  // bit j: cell j holds a token
};

// Tables of one layer in device memory; uploaded once, on the current device, and shared by all calls.
class Layer {
 public:
  // Synchronizes. head_dim_k is a multiple of 16, head_dim_v of 32; both are at most 256.
  explicit Layer(const LayerCodec& codec);
  ~Layer();
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  struct Impl;
  const Impl& impl() const { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

// The cache of one layer. A cell is page * 64 + place in the page.
struct Cache {
  std::uint8_t* key_pages = nullptr;
  std::uint8_t* value_pages = nullptr;
  std::int32_t* positions = nullptr;  // [cell], kEmptyCell where a cell holds no token
  PageSummary* summaries = nullptr;   // [page]
};

// One token per row; strides in elements, element [row][kv_head][dim] with dim contiguous.
struct Rows {
  const void* data = nullptr;
  Type type = Type::kF32;
  std::int64_t row_stride = 0, head_stride = 0;
};

// Quantizes n_rows keys and values into cells[row] (distinct, int64; a negative cell skips the row) at
// positions[row] (int32), and sets Cache::positions. Token rows are those of the CPU codec, bit by bit.
// Pages change bytes of these cells only. Call summarize() before the next decode().
struct StoreCall {
  const Layer* layer = nullptr;
  Cache cache;
  Rows keys, values;
  const std::int64_t* cells = nullptr;
  const std::int32_t* positions = nullptr;
  std::int64_t n_rows = 0;
};
void store(const StoreCall& call, Stream stream);

// Fills cache.summaries of pages [first_page, first_page + n_pages) from cache.positions.
void summarize(const Cache& cache, std::int64_t first_page, std::int64_t n_pages, Stream stream);

// Which pages a sequence has. Paged: sequence b has pages indices[indptr[b]] .. indices[indptr[b + 1] - 1] and
// last_page_len[b] keys (1..64) in the last. Dense (indptr null): pages b * pages_per_sequence .. and kv_len
// keys.
struct Sequences {
  int batch = 0;
  const std::int32_t* indptr = nullptr;         // [batch + 1]
  const std::int32_t* indices = nullptr;        // [indptr[batch]]
  const std::int32_t* last_page_len = nullptr;  // [batch]
  std::int64_t kv_len = 0;                      // dense; paged: an upper bound of the longest sequence
  std::int64_t pages_per_sequence = 0;          // dense
};

// Attention of n_rows (1..8) query rows per sequence; semantics of gtq::AttentionCall. Every key of a sequence
// is seen by all its rows unless `mask` excludes it. Without Cache::summaries page i of a sequence holds
// positions 64 i .. 64 i + 63. head_dim_v is 64, 96, 128 or 256. Relative L2 error below 1e-3.
struct DecodeCall {
  const Layer* layer = nullptr;
  Cache cache;
  Sequences sequences;
  int n_q_heads = 0;
  int n_rows = 1;
  // [batch][row][head] of head_dim_k floats, 16-byte aligned; strides in elements, multiples of 4
  const float* q = nullptr;
  std::int64_t q_batch_stride = 0, q_row_stride = 0, q_head_stride = 0;
  float* out = nullptr;  // [batch][row][head] of head_dim_v floats, 16-byte aligned; strides likewise
  std::int64_t out_batch_stride = 0, out_row_stride = 0, out_head_stride = 0;
  const std::uint16_t* mask = nullptr;  // f16 [batch][row][kv_len] or null; strides in elements
  std::int64_t mask_batch_stride = 0, mask_row_stride = 0;
  const float* sinks = nullptr;  // [n_q_heads] or null
  float sm_scale = 1.0f;
  float logit_softcap = 0.0f;
  float alibi_max_bias = 0.0f;
  // Compute capability 9.0 and newer: the launch may begin while the one before it on the stream ends
  // (programmatic dependent launch), about 1 us sooner. Only where one stream at a time decodes: launches of
  // several wait for each other's multiprocessors then, for milliseconds.
  bool begins_early = false;
  // decode_workspace_bytes(), 256-byte aligned, zeroed once before its first use; only decode() may write it
  void* workspace = nullptr;
};

// Of this call or any of its layer with no more heads and rows, whatever the batch. Calls that share a
// workspace must not overlap.
std::size_t decode_workspace_bytes(const DecodeCall& call);
void decode(const DecodeCall& call, Stream stream);

// Attention of any number of query rows of one sequence on tensor cores; semantics of gtq::AttentionCall.
// chunk_keys keys at a time are dequantized into the workspace, which does not grow with the context, and
// attended as f16 (queries and weights, too; sums are f32): as exact as attention over an f16 cache. One dense
// sequence or one with a page table.
struct PrefillCall {
  const Layer* layer = nullptr;
  Cache cache;  // summaries are not read; without positions cell j of the sequence has position j
  const std::int32_t* pages = nullptr;  // [ceil(kv_len / 64)] pages of the sequence, or null:
  std::int64_t first_page = 0;          // this one and those that follow it
  std::int64_t kv_len = 0;              // 0 gives zeros
  int n_q_heads = 0;
  std::int64_t n_rows = 0;
  // [row][head] of head_dim_k floats, 16-byte aligned; strides in elements, multiples of 4; |x| <= 65504
  const float* q = nullptr;
  std::int64_t q_row_stride = 0, q_head_stride = 0;
  // [row][head] of head_dim_v floats, 8-byte aligned, strides likewise. Holds sums between chunks: apart from
  // q.
  float* out = nullptr;
  std::int64_t out_row_stride = 0, out_head_stride = 0;
  bool causal = false;  // row r sees the first kv_len - n_rows + r + 1 cells only
  // f16 [row][kv_len] or null, 4-byte aligned; stride in elements, even, and all of it readable in each row
  const std::uint16_t* mask = nullptr;
  std::int64_t mask_row_stride = 0;
  const float* sinks = nullptr;  // [n_q_heads] or null
  float sm_scale = 1.0f;         // > 0
  float logit_softcap = 0.0f;
  float alibi_max_bias = 0.0f;
  std::int64_t chunk_keys = 8192;  // a multiple of 128, at most 16384
  void* workspace = nullptr;       // prefill_workspace_bytes(), 256-byte aligned, of any contents
};

// Of this call or any with as many rows and heads and no larger chunks.
std::size_t prefill_workspace_bytes(const PrefillCall& call);
void prefill(const PrefillCall& call, Stream stream);

// Token rows of all KV heads (key_token_bytes / value_token_bytes apart) <-> cells[i], n cells.
void gather_rows(const Layer& layer, const Cache& cache, const std::int64_t* cells, std::int64_t n,
                 std::uint8_t* key_rows, std::uint8_t* value_rows, Stream stream);
void scatter_rows(const Layer& layer, const Cache& cache, const std::int64_t* cells, std::int64_t n,
                  const std::uint8_t* key_rows, const std::uint8_t* value_rows, Stream stream);

// Page destinations[i] = page sources[i] for n distinct destinations that are no sources; positions and
// summaries too.
void copy_pages(const Layer& layer, const Cache& cache, const std::int32_t* sources,
                const std::int32_t* destinations, std::int64_t n, Stream stream);

// Keys (mean key added, after RoPE) and values of cells [first_cell, first_cell + n_cells) of a dense sequence
// that starts at page `first_page`, as f16 [kv_head][n_cells][head_dim]; first_cell is a multiple of 64. Empty
// cells give zeros. For other attention kernels: a caller bounds its scratch by taking tiles.
void dequantize(const Layer& layer, const Cache& cache, std::int64_t first_page, std::int64_t first_cell,
                std::int64_t n_cells, std::uint16_t* keys, std::uint16_t* values, Stream stream);

}  // namespace gtq::cuda
