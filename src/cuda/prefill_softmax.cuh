// What both prefill kernels share: which tiles a thread block visits, logits of mixed tiles, online softmax on
// tensor-core fragments, and the state between chunks.
//
// Fragment of a warp's 16 rows (g = lane / 4, t = lane % 4), as mma m16n8 and wgmma leave it:
//   s[4 j + 2 half + e]    row g + 8 half, key or dim 8 j + 2 t + e
// Logits are kept in log2 units. The four lanes of a row agree on its largest logit; each sums the weights of
// its own keys.
#pragma once

#include "cuda/f16.cuh"
#include "cuda/logits.cuh"
#include "cuda/prefill_params.h"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

// Tiles of a chunk that a thread block visits: number, and whether it is mixed.
class TileEntry {
 public:
  __device__ __forceinline__ TileEntry() {}
  __device__ __forceinline__ TileEntry(int tile, bool is_mixed)
      : bits_(static_cast<std::uint16_t>(tile | (is_mixed ? kMixedBit : 0))) {}
  __device__ __forceinline__ int tile() const { return bits_ & (kMixedBit - 1); }
  __device__ __forceinline__ bool is_mixed() const { return (bits_ & kMixedBit) != 0; }

 private:
  static constexpr int kMixedBit = 1 << 15;
  std::uint16_t bits_;
};

// Cells of the sequence that a row may see.
__device__ __forceinline__ long long row_limit(const PrefillParams& p, int row) {
  return p.call.causal ? p.call.kv_len - p.call.n_rows + row + 1 : p.call.kv_len;
}

template <int kKeys>
__device__ __forceinline__ TileKind kind_of_tile(const PrefillParams& p, int query_tile, int tile,
                                                 const uint4 present) {
  const RowSpan rows = rows_of_tile(p, query_tile);
  const long long first_cell = p.first_cell + static_cast<long long>(tile) * kKeys;
  const std::uint32_t some = present.x | present.y | (kKeys == 128 ? present.z | present.w : 0);
  const std::uint32_t all = present.x & present.y & (kKeys == 128 ? present.z & present.w : ~0u);
  if (some == 0 || first_cell >= row_limit(p, rows.last)) return TileKind::kUnseen;
  const TileKind kind =
      p.call.mask != nullptr ? p.kinds[static_cast<long long>(query_tile) * p.n_tiles + tile] : TileKind::kSeen;
  if (kind == TileKind::kUnseen) return kind;
  const bool is_plain =
      all == ~0u && first_cell + kKeys <= row_limit(p, rows.first) && p.call.logit_softcap <= 0.0f;
  return is_plain ? kind : TileKind::kMixed;
}

// By one warp. The tiles that some row of the query tile sees, in order; their number.
template <int kKeys>
__device__ __forceinline__ int list_tiles(const PrefillParams& p, int query_tile, int lane, TileEntry* list) {
  int n = 0;
  for (int base = 0; base < p.n_tiles; base += 32) {
    const int tile = base + lane;
    uint4 present = make_uint4(0, 0, 0, 0);
    TileKind kind = TileKind::kUnseen;
    if (tile < p.n_tiles) {
      present = p.present[tile];
      kind = kind_of_tile<kKeys>(p, query_tile, tile, present);
    }
    const std::uint32_t visited = __ballot_sync(~0u, kind != TileKind::kUnseen);
    if (kind != TileKind::kUnseen) {
      list[n + __popc(visited & ((1u << lane) - 1))] = {tile, kind == TileKind::kMixed};
    }
    n += __popc(visited);
  }
  return n;
}

// Row m of a KV head; those behind the last one compute what it does and are not stored.
struct QueryRow {
  int m, row, head;

  __device__ __forceinline__ QueryRow(const PrefillParams& p, int kv_head, int any_m)
      : m(min(any_m, p.n_m - 1)), row(m / p.group), head(kv_head * p.group + m % p.group) {}

  __device__ __forceinline__ float* out(const PrefillParams& p) const {
    return p.call.out + row * p.call.out_row_stride + head * p.call.out_head_stride;
  }
  __device__ __forceinline__ float2& state(const PrefillParams& p, int kv_head) const {
    return p.state[static_cast<long long>(kv_head) * p.n_m + m];
  }
};

// Where a lane of a warp is; its two rows.
struct LaneRows {
  int kv_head, first_m, lane;

  __device__ __forceinline__ bool has(const PrefillParams& p, int half) const {
    return first_m + lane / 4 + 8 * half < p.n_m;
  }
  __device__ __forceinline__ QueryRow row(const PrefillParams& p, int half) const {
    return QueryRow(p, kv_head, first_m + lane / 4 + 8 * half);
  }
};

// Products of kKeys keys of a tile, from `first_key` on, -> logits in log2 units, -inf for keys that a row must
// not see.
template <int kKeys, bool kShaped>
__device__ __forceinline__ void mixed_logits(const PrefillParams& p, const LaneRows& warp, int tile,
                                             int tile_n_keys, int first_key, float (&s)[kKeys / 2]) {
  const long long first_cell = p.first_cell + static_cast<long long>(tile) * tile_n_keys + first_key;
  const uint4 present = p.present[tile];
  const std::uint32_t words[4] = {present.x, present.y, present.z, present.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const QueryRow row = warp.row(p, half);
    const float slope = kShaped ? alibi_slope(p.call.alibi_max_bias, p.call.n_q_heads, row.head) : 1.0f;
    const long long limit = row_limit(p, row.row) - first_cell;
    const std::uint16_t* mask = kShaped && p.call.mask != nullptr
                                    ? p.call.mask + row.row * p.call.mask_row_stride + first_cell
                                    : nullptr;
#pragma unroll
    for (int j = 0; j < kKeys / 8; ++j) {
      const int key = 8 * j + 2 * (warp.lane % 4);
      const std::uint32_t word = words[first_key / 32 + j / 4];
      const bool seen[2] = {(word >> (key % 32) & 1) != 0 && key < limit,
                            (word >> (key % 32 + 1) & 1) != 0 && key + 1 < limit};
      float2 bias = make_float2(0, 0);
      if (kShaped && mask != nullptr && (seen[0] || seen[1])) {
        bias = __half22float2(*reinterpret_cast<const __half2*>(mask + key));
      }
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float x = s[4 * j + 2 * half + e] * p.call.sm_scale;
        if (kShaped && p.call.logit_softcap > 0.0f) x = p.call.logit_softcap * tanhf(x / p.call.logit_softcap);
        if (kShaped) x += slope * (e == 0 ? bias.x : bias.y);
        s[4 * j + 2 * half + e] = seen[e] ? x * kLog2E : -INFINITY;
      }
    }
  }
}

struct RowState {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
};

// s: logits over `scale` in log2 units -> weights. Returns what sums of before are to be multiplied with.
template <int N>
__device__ __forceinline__ float2 weigh(float (&s)[N], float scale, RowState& state) {
  float factors[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float most = -INFINITY;
#pragma unroll
    for (int j = 0; j < N / 4; ++j) most = fmaxf(most, fmaxf(s[4 * j + 2 * half], s[4 * j + 2 * half + 1]));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
    most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
    const float largest = fmaxf(state.largest[half], most * scale);
    const float reference = largest == -INFINITY ? 0.0f : largest;  // nothing seen yet
    factors[half] = exp2_fast(state.largest[half] - reference);
    state.largest[half] = largest;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& x = s[4 * j + 2 * half + e];
        x = exp2_fast(fmaf(x, scale, -reference));
        sum += x;
      }
    }
    state.sum[half] = state.sum[half] * factors[half] + sum;
  }
  return make_float2(factors[0], factors[1]);
}

template <int N>
__device__ __forceinline__ void rescale(float (&o)[N], float2 factors) {
#pragma unroll
  for (int j = 0; j < N / 4; ++j) {
    o[4 * j] *= factors.x;
    o[4 * j + 1] *= factors.x;
    o[4 * j + 2] *= factors.y;
    o[4 * j + 3] *= factors.y;
  }
}

// Weights of 16 keys as A fragment a0..a3, f16.
template <int N>
__device__ __forceinline__ void pack_weights(const float (&s)[N], std::uint32_t (&weights)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    weights[i] = pack_f16(s[2 * i], s[2 * i + 1]);
  }
}

// o: sums of weighted values of the lane's rows.
template <int N>
__device__ __forceinline__ void load_state(const PrefillParams& p, const LaneRows& warp, RowState& state,
                                           float (&o)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) o[i] = 0.0f;
  if (p.is_first) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const QueryRow row = warp.row(p, half);
    const float2 before = row.state(p, warp.kv_head);
    state.largest[half] = before.x;
    state.sum[half] = warp.lane % 4 == 0 ? before.y : 0.0f;
    const float* from = row.out(p);
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      const int dim = 8 * j + 2 * (warp.lane % 4);
      if (dim >= p.layer.head_dim_v) continue;
      const float2 pair = *reinterpret_cast<const float2*>(from + dim);
      o[4 * j + 2 * half] = pair.x;
      o[4 * j + 2 * half + 1] = pair.y;
    }
  }
}

// Multiplies sums into outputs: over the sum of weights, the sink's included.
__device__ __forceinline__ float last_factor(const PrefillParams& p, int head, float largest, float sum) {
  float factor = 1.0f;
  if (p.call.sinks != nullptr) {
    const float sink = p.call.sinks[head] * kLog2E, reference = fmaxf(largest, sink);
    factor = exp2_fast(largest - reference);
    sum = sum * factor + exp2_fast(sink - reference);
  }
  return sum > 0.0f ? factor / sum : 0.0f;
}

// The state for the next chunk, or behind the last one the outputs.
template <int N>
__device__ __forceinline__ void store_state(const PrefillParams& p, const LaneRows& warp, const RowState& state,
                                            const float (&o)[N]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.sum[half], factor = 1.0f;
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    if (!warp.has(p, half)) continue;
    const QueryRow row = warp.row(p, half);
    if (p.is_last) {
      factor = last_factor(p, row.head, state.largest[half], sum);
    } else if (warp.lane % 4 == 0) {
      row.state(p, warp.kv_head) = make_float2(state.largest[half], sum);
    }
    float* to = row.out(p);
#pragma unroll
    for (int j = 0; j < N / 4; ++j) {
      const int dim = 8 * j + 2 * (warp.lane % 4);
      if (dim >= p.layer.head_dim_v) continue;
      *reinterpret_cast<float2*>(to + dim) =
          make_float2(o[4 * j + 2 * half] * factor, o[4 * j + 2 * half + 1] * factor);
    }
  }
}

// Queries of the tile, rounded to f16, to shared memory: slabs of kQueryTile rows. By threads 0..n_threads - 1.
template <int kDims>
__device__ __forceinline__ void load_queries(const PrefillParams& p, int kv_head, int first_m, int n_threads,
                                             std::uint8_t* shared) {
  constexpr int kChunks = kDims / 8;
  for (int i = static_cast<int>(threadIdx.x); i < kQueryTile * kChunks; i += n_threads) {
    const int in_tile = i / kChunks, dim = i % kChunks * 8, m = first_m + in_tile;
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (m < p.n_m && dim < p.layer.head_dim_k) {
      const float* q = p.call.q + m / p.group * p.call.q_row_stride +
                       (kv_head * p.group + m % p.group) * p.call.q_head_stride;
      const float4 a = *reinterpret_cast<const float4*>(q + dim),
                   b = *reinterpret_cast<const float4*>(q + dim + 4);
      chunk = make_uint4(pack_f16(a.x, a.y), pack_f16(a.z, a.w), pack_f16(b.x, b.y), pack_f16(b.z, b.w));
    }
    *reinterpret_cast<uint4*>(shared + slab_byte(in_tile, dim, kQueryTile)) = chunk;
  }
}

}  // namespace gtq::cuda
