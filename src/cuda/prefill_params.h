// Prefill: tiles of f16 keys and values, and what its kernels are given.
//
// A chunk of the context at a time is dequantized to tiles of tile_keys() neighbouring keys, [kv_head][tile]:
//   keys     [slab of 64 dims][key][64 dims]     tile_keys() * dims halves
//   values   [slab of 64 dims][key][64 dims]     the same
// The 64 dims of a key (128 bytes, 8 chunks of 16) have chunk c at place c ^ (key % 8): what tensor cores of
// sm_90 call the 128-byte swizzle, and free of bank conflicts for ldmatrix. dims is 64, 128 or 256 and holds
// the longer of the two heads, zeros behind its end.
//
// Rows of queries are numbered m = row * group + (query head % group) within a KV head and cut into tiles of
// kQueryTile, one thread block each, so that all query heads of a KV head share its keys.
#pragma once

#include "cuda/tables.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

inline constexpr int kQueryTile = 128;
inline constexpr int kSlabDims = 64, kSlabRowBytes = 128;
inline constexpr int kMostChunkTiles = 256;

GTQ_HD constexpr int tile_keys(int dims) { return dims == 256 ? 64 : 128; }
GTQ_HD constexpr int half_tile_bytes(int dims) { return tile_keys(dims) * dims * 2; }  // of keys or values

// Byte of the first of 8 dims, `dim` a multiple of 8, of a row in slabs of n_rows rows.
GTQ_HD constexpr int slab_byte(int row, int dim, int n_rows) {
  return (dim / kSlabDims * n_rows + row) * kSlabRowBytes + ((dim % kSlabDims / 8) ^ (row % 8)) * 16;
}

// What a tile of keys is to a tile of queries.
enum class TileKind : std::uint8_t { kUnseen, kSeen, kMixed };  // kSeen: every row sees every key, mask 0

struct PrefillParams {
  PrefillCall call;  // call.layer is the host's
  LayerView layer;
  int group, n_m;  // query heads per KV head, rows of queries per KV head

  // The chunk.
  long long first_cell;
  int n_tiles;
  bool is_first, is_last;

  // In the workspace.
  std::uint8_t* tiles;  // [kv_head][n_tiles] keys, values
  uint4* present;       // [n_tiles] bit per key: a token of the sequence
  TileKind* kinds;      // [query tile][n_tiles], with a mask
  float2* state;        // [kv_head][m] {largest logit in log2 units, sum of weights}, between chunks; sums of
                        // weighted values are in call.out meanwhile
};

// Query rows of a tile of queries, both ends included.
struct RowSpan {
  int first, last;
};
GTQ_HD RowSpan rows_of_tile(const PrefillParams& p, int query_tile) {
  const int first_m = query_tile * kQueryTile,
            last_m = first_m + kQueryTile < p.n_m ? first_m + kQueryTile : p.n_m;
  return {first_m / p.group, (last_m - 1) / p.group};
}

}  // namespace gtq::cuda
