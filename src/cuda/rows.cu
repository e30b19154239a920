// Token rows <-> pages, copy of pages, summaries of positions.
//
// gather/scatter: a thread moves one quant_group of a key or 16 dims of a value of one cell and head; token
// rows are docs/format.md's, little-endian bit strings of 2 * width bytes per 16 codes. Exact.
#include "cuda/layer.h"
#include "cuda/page_codes.cuh"

namespace gtq::cuda {
namespace {

constexpr int kThreads = 128;

int n_blocks(long long n) { return static_cast<int>((n + kThreads - 1) / kThreads); }

// Four codes to a word.
__device__ void unpack(const std::uint8_t* bytes, int width, std::uint32_t (&codes)[4]) {
  unsigned pending = 0;
  int n_bits = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    for (; n_bits < width; n_bits += 8) pending |= static_cast<unsigned>(*bytes++) << n_bits;
    codes[i / 4] = (i % 4 == 0 ? 0u : codes[i / 4]) | (pending & ((1u << width) - 1)) << (8 * (i % 4));
    pending >>= width;
    n_bits -= width;
  }
}

__device__ void pack(const std::uint8_t (&codes)[16], int width, std::uint8_t* bytes) {
  unsigned pending = 0;
  int n_bits = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    pending |= static_cast<unsigned>(codes[i]) << n_bits;
    for (n_bits += width; n_bits >= 8; n_bits -= 8) {
      *bytes++ = static_cast<std::uint8_t>(pending);
      pending >>= 8;
    }
  }
}

// What a thread moves.
struct Piece {
  bool key;
  int head, sixteen;  // quant_group of a key, 16 dims of a value
  long long row;
};

__device__ bool find_piece(const LayerView& layer, long long n_rows, Piece* piece) {
  const int n_key = layer.head_dim_k / 16, n_value = layer.head_dim_v / 16, n = n_key + n_value;
  long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n_rows * layer.n_kv_heads * n) return false;
  const int part = static_cast<int>(i % n);
  i /= n;
  *piece = {part < n_key, static_cast<int>(i % layer.n_kv_heads), part < n_key ? part : part - n_key,
            i / layer.n_kv_heads};
  return true;
}

__global__ void gather_kernel(LayerView layer, Cache cache, const std::int64_t* cells, long long n,
                              std::uint8_t* key_rows, std::uint8_t* value_rows) {
  Piece piece;
  if (!find_piece(layer, n, &piece)) return;
  const HeadTable& head = layer.heads[piece.head];
  const CellPlace at = place_of_cell(cells[piece.row]);
  std::uint8_t codes[16];
  if (piece.key) {
    const std::uint8_t* page = cache.key_pages + at.page * layer.key_page_bytes + head.key_offset;
    std::uint8_t* row = key_rows + piece.row * layer.key_token_bytes + head.key_row_offset;
    const int width = head.widths[piece.sixteen], before = sum_of_widths(head.widths, piece.sixteen);
    get_key_codes(page + 128 * before, width, at.in_page, codes);
    pack(codes, width, row + 1 + 2 * before);
    if (piece.sixteen == 0) row[0] = page[head.key_bytes - kCells + at.in_page];
  } else {
    const std::uint8_t* page = cache.value_pages + at.page * layer.value_page_bytes + head.value_offset;
    std::uint8_t* row = value_rows + piece.row * layer.value_token_bytes + head.value_row_offset;
    get_value_codes(page, layer.head_dim_v, layer.v_width, at.in_page, piece.sixteen, codes);
    pack(codes, layer.v_width, row + 1 + 2 * layer.v_width * piece.sixteen);
    if (piece.sixteen == 0) row[0] = page[head.value_bytes - kCells + at.in_page];
  }
}

__global__ void scatter_kernel(LayerView layer, Cache cache, const std::int64_t* cells, long long n,
                               const std::uint8_t* key_rows, const std::uint8_t* value_rows) {
  Piece piece;
  if (!find_piece(layer, n, &piece)) return;
  const HeadTable& head = layer.heads[piece.head];
  const CellPlace at = place_of_cell(cells[piece.row]);
  std::uint32_t codes[4];
  if (piece.key) {
    std::uint8_t* page = cache.key_pages + at.page * layer.key_page_bytes + head.key_offset;
    const std::uint8_t* row = key_rows + piece.row * layer.key_token_bytes + head.key_row_offset;
    const int width = head.widths[piece.sixteen], before = sum_of_widths(head.widths, piece.sixteen);
    unpack(row + 1 + 2 * before, width, codes);
#pragma unroll
    for (int t = 0; t < 4; ++t) put_key_run(page + 128 * before, width, at.in_page, t, codes[t]);
    if (piece.sixteen == 0) page[head.key_bytes - kCells + at.in_page] = row[0];
  } else {
    std::uint8_t* page = cache.value_pages + at.page * layer.value_page_bytes + head.value_offset;
    const std::uint8_t* row = value_rows + piece.row * layer.value_token_bytes + head.value_row_offset;
    unpack(row + 1 + 2 * layer.v_width * piece.sixteen, layer.v_width, codes);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      put_value_run(page, layer.head_dim_v, layer.v_width, at.in_page, 4 * piece.sixteen + t, codes[t]);
    }
    if (piece.sixteen == 0) page[head.value_bytes - kCells + at.in_page] = row[0];
  }
}

__device__ void copy_bytes(std::uint8_t* to, const std::uint8_t* from, unsigned n) {
  for (unsigned i = threadIdx.x * 16; i < n; i += kThreads * 16) {
    *reinterpret_cast<uint4*>(to + i) = *reinterpret_cast<const uint4*>(from + i);
  }
}

// A thread block copies one page of all heads.
__global__ void copy_kernel(LayerView layer, Cache cache, const std::int32_t* sources,
                            const std::int32_t* destinations) {
  const long long from = sources[blockIdx.x], to = destinations[blockIdx.x];
  copy_bytes(cache.key_pages + to * layer.key_page_bytes, cache.key_pages + from * layer.key_page_bytes,
             layer.key_page_bytes);
  copy_bytes(cache.value_pages + to * layer.value_page_bytes, cache.value_pages + from * layer.value_page_bytes,
             layer.value_page_bytes);
  if (cache.positions != nullptr && threadIdx.x < kCells) {
    cache.positions[to * kCells + threadIdx.x] = cache.positions[from * kCells + threadIdx.x];
  }
  if (cache.summaries != nullptr && threadIdx.x == 0) cache.summaries[to] = cache.summaries[from];
}

// A warp summarises one page.
__global__ void summarize_kernel(Cache cache, long long first_page, long long n_pages) {
  const long long i = (static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (i >= n_pages) return;
  const std::int32_t* positions = cache.positions + (first_page + i) * kCells;
  const std::int32_t low = positions[lane], high = positions[lane + 32];
  const unsigned low_mask = __ballot_sync(~0u, low != kEmptyCell),
                 high_mask = __ballot_sync(~0u, high != kEmptyCell);
  PageSummary summary;
  summary.occupied = static_cast<std::uint64_t>(high_mask) << 32 | low_mask;
  const int first = __ffsll(static_cast<long long>(summary.occupied)) - 1;
  summary.start = first < 0 ? 0 : positions[first] - first;
  const bool odd = (low != kEmptyCell && low != summary.start + lane) ||
                   (high != kEmptyCell && high != summary.start + lane + 32);
  summary.regular = __any_sync(~0u, odd) ? 0 : 1;
  if (lane == 0) cache.summaries[first_page + i] = summary;
}

long long n_pieces(const LayerView& layer, std::int64_t n) {
  return n * layer.n_kv_heads * (layer.head_dim_k / 16 + layer.head_dim_v / 16);
}

}  // namespace

void gather_rows(const Layer& layer, const Cache& cache, const std::int64_t* cells, std::int64_t n,
                 std::uint8_t* key_rows, std::uint8_t* value_rows, Stream stream) {
  if (n == 0) return;
  const LayerView& view = layer.impl().view;
  gather_kernel<<<n_blocks(n_pieces(view, n)), kThreads, 0, stream>>>(view, cache, cells, n, key_rows,
                                                                      value_rows);
  check_launch("gather_rows");
}

void scatter_rows(const Layer& layer, const Cache& cache, const std::int64_t* cells, std::int64_t n,
                  const std::uint8_t* key_rows, const std::uint8_t* value_rows, Stream stream) {
  if (n == 0) return;
  const LayerView& view = layer.impl().view;
  scatter_kernel<<<n_blocks(n_pieces(view, n)), kThreads, 0, stream>>>(view, cache, cells, n, key_rows,
                                                                       value_rows);
  check_launch("scatter_rows");
}

void copy_pages(const Layer& layer, const Cache& cache, const std::int32_t* sources,
                const std::int32_t* destinations, std::int64_t n, Stream stream) {
  if (n == 0) return;
  copy_kernel<<<static_cast<unsigned>(n), kThreads, 0, stream>>>(layer.impl().view, cache, sources,
                                                                 destinations);
  check_launch("copy_pages");
}

void summarize(const Cache& cache, std::int64_t first_page, std::int64_t n_pages, Stream stream) {
  if (n_pages == 0) return;
  summarize_kernel<<<n_blocks(32 * n_pages), kThreads, 0, stream>>>(cache, first_page, n_pages);
  check_launch("summarize");
}

}  // namespace gtq::cuda
