// How a tile of queries and a page of 64 keys lie in the lanes of a warp for 8-bit products m16n8k32. Queries
// and softmax weights have two bytes, high and low, each a row or column of its own. Lane = 4 g + t.
//
//   WideTile     8 rows. Queries are m: rows 0..7 the high bytes, 8..15 the low ones; keys are n. A lane
//                holds 16 keys of row g.
//   NarrowTile   4 rows. Queries are n: columns 2 row + {high 0, low 1}; keys (or dims of values) are m. A lane
//                holds 8 keys of row t. Half the products, half the sums in registers; the unpacked codes are
//                the same, as two B fragments of 8 columns are an A fragment of 16 rows.
//
// Key i of a lane is key slot 8 (i % 8) + column(lane, i / 8).
#pragma once

#include "cuda/ptx.cuh"

namespace gtq::cuda {

// Sums of products of queries and keys begin at kScoreZero: as bits of f32 numbers they are 1.5 2^23 + sum,
// which saves their conversion. |sum| < 2^22.
inline constexpr int kScoreZero = 0x4B400000;

// (128 high + low) scale, less some 50 scale (rounding of the constant): queries are rounded to 0.3 scale per
// level.
__device__ __forceinline__ float scaled_score(int high, int low, float scale) {
  constexpr float kBias = 12582912.0f;
  return fmaf(__int_as_float(low), scale, fmaf(__int_as_float(high), 128.0f * scale, -129.0f * kBias * scale));
}

struct WideTile {
  static constexpr int kRows = 8;
  static constexpr int kKeys = 16;       // of a lane
  static constexpr int kProducts = 8;    // with 16 coded slots or 32 of the 64 keys of a page
  static constexpr int kDims = 8;        // of a product with values
  static constexpr int kWeights = 4;     // registers of the weights of half a page
  static constexpr int kFirstOfRow = 1;  // lanes of a row differ in bits kFirstOfRow ..< kPastRow
  static constexpr int kPastRow = 4;
  using Query = uint2;  // of a quant_group: coded slots 4 t ..+3 of row g, high and low bytes

  __device__ static __forceinline__ int row(int lane) { return lane / 4; }
  __device__ static __forceinline__ int place_in_row(int lane) { return lane % 4; }
  __device__ static __forceinline__ int column(int lane, int e) { return 2 * (lane % 4) + e; }

  // Bytes of coded slots 4 t ..+3 of a row into the fragments of a quant_group.
  __device__ static __forceinline__ void put_query(Query* group, int row, int t, uint2 bytes) {
    group[4 * row + t] = bytes;
  }

  // acc += queries times keys: of a quant_group, or of two.
  __device__ static __forceinline__ void score(int (&acc)[kProducts][4], Query q, const std::uint32_t (&k)[8]) {
#pragma unroll
    for (int r = 0; r < 8; ++r) mma_s8_k16(acc[r], q.x, q.y, k[r]);
  }
  __device__ static __forceinline__ void score(int (&acc)[kProducts][4], Query qa, Query qb,
                                               const std::uint32_t (&a)[8], const std::uint32_t (&b)[8]) {
#pragma unroll
    for (int r = 0; r < 8; ++r) mma_s8(acc[r], qa.x, qa.y, qb.x, qb.y, a[r], b[r]);
  }
  __device__ static __forceinline__ float logit(const int (&acc)[kProducts][4], int i, float scale) {
    return scaled_score(acc[i % 8][i / 8], acc[i % 8][2 + i / 8], scale);
  }

  // w: weights of the lane's keys in the low 16 bits.
  __device__ static __forceinline__ void pack_weights(const std::uint32_t (&w)[kKeys],
                                                      std::uint32_t (&packed)[2][kWeights]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t first = permute(w[2 * i], w[8 + 2 * i], 0x5140);
      const std::uint32_t second = permute(w[2 * i + 1], w[8 + 2 * i + 1], 0x5140);
      packed[i / 2][2 * (i % 2)] = permute(first, second, 0x7632);
      packed[i / 2][2 * (i % 2) + 1] = permute(first, second, 0x5410);
    }
  }
  // o: of 32 dims. v: a unit of values.
  __device__ static __forceinline__ void add_unit(int (*o)[4], const std::uint32_t (&w)[kWeights],
                                                  const std::uint32_t (&v)[8]) {
#pragma unroll
    for (int z = 0; z < 4; ++z) mma_u8s8(o[z], w[0], w[1], w[2], w[3], v[2 * z], v[2 * z + 1]);
  }
  // Sums of a product with values: two dims, high and low parts.
  __device__ static constexpr int high(int e) { return e; }
  __device__ static constexpr int low(int e) { return 2 + e; }
  __device__ static __forceinline__ int dim(int lane, int e) { return 2 * (lane % 4) + e; }

  // Mean-key term (decode_mean.cuh): [product][4], coefficients times basis of key slots 8 r + g, b[r].
  static constexpr int kMeanProducts = 4;
  __device__ static __forceinline__ int mean_row(int lane) { return lane / 4; }
  __device__ static __forceinline__ void add_mean(float (&bias)[kMeanProducts][4], std::uint32_t re,
                                                  std::uint32_t im, const uint2 (&b)[4], int) {
#pragma unroll
    for (int r = 0; r < 4; ++r) mma_f16(bias[r], re, re, im, im ^ 0x80008000u, b[r].x, b[r].y);
  }
  __device__ static __forceinline__ float& bias(float (&of)[kMeanProducts][4], int i) {
    return of[i % 4][i / 8 + 2 * (i % 8 / 4)];
  }
};

struct NarrowTile {
  static constexpr int kRows = 4, kKeys = 8, kProducts = 4, kDims = 16, kWeights = 2;
  static constexpr int kFirstOfRow = 4, kPastRow = 32;
  using Query = std::uint32_t;  // of a quant_group: coded slots 4 t ..+3 of row g / 2, high or low bytes

  __device__ static __forceinline__ int row(int lane) { return lane % 4; }
  __device__ static __forceinline__ int place_in_row(int lane) { return lane / 4; }
  __device__ static __forceinline__ int column(int lane, int) { return lane / 4; }

  __device__ static __forceinline__ void put_query(Query* group, int row, int t, uint2 bytes) {
    group[8 * row + t] = bytes.x;
    group[8 * row + 4 + t] = bytes.y;
  }

  __device__ static __forceinline__ void score(int (&acc)[kProducts][4], Query q, const std::uint32_t (&k)[8]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) mma_s8_k16(acc[j], k[2 * j], k[2 * j + 1], q);
  }
  __device__ static __forceinline__ void score(int (&acc)[kProducts][4], Query qa, Query qb,
                                               const std::uint32_t (&a)[8], const std::uint32_t (&b)[8]) {
#pragma unroll
    for (int j = 0; j < 4; ++j) mma_s8(acc[j], a[2 * j], a[2 * j + 1], b[2 * j], b[2 * j + 1], qa, qb);
  }
  __device__ static __forceinline__ float logit(const int (&acc)[kProducts][4], int i, float scale) {
    return scaled_score(acc[i / 2][2 * (i % 2)], acc[i / 2][2 * (i % 2) + 1], scale);
  }

  // Two keys of a lane, both bytes, then turned: lane 4 g + t gets the bytes that column g has of keys 2 t, 2 t
  // + 1.
  __device__ static __forceinline__ void pack_weights(const std::uint32_t (&w)[kKeys],
                                                      std::uint32_t (&packed)[2][kWeights]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      packed[i / 2][i % 2] = permute(transpose(permute(w[2 * i], w[2 * i + 1], 0x4051)), 0, 0x3120);
    }
  }
  __device__ static __forceinline__ void add_unit(int (*o)[4], const std::uint32_t (&w)[kWeights],
                                                  const std::uint32_t (&v)[8]) {
#pragma unroll
    for (int z = 0; z < 2; ++z) {
      mma_s8u8(o[z], v[4 * z], v[4 * z + 2], v[4 * z + 1], v[4 * z + 3], w[0], w[1]);
    }
  }
  __device__ static constexpr int high(int e) { return 2 * e; }
  __device__ static constexpr int low(int e) { return 2 * e + 1; }
  __device__ static __forceinline__ int dim(int lane, int e) { return 8 * e + lane / 4; }

  static constexpr int kMeanProducts = 2;
  __device__ static __forceinline__ int mean_row(int lane) { return lane / 8; }
  __device__ static __forceinline__ void add_mean(float (&bias)[kMeanProducts][4], std::uint32_t re,
                                                  std::uint32_t im, const uint2 (&b)[4], int lane) {
    im ^= (lane & 4) != 0 ? 0x80008000u : 0u;
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      mma_f16(bias[j], b[2 * j].x, b[2 * j + 1].x, b[2 * j].y, b[2 * j + 1].y, re, im);
    }
  }
  __device__ static __forceinline__ float& bias(float (&of)[kMeanProducts][4], int i) {
    return of[i % 4 / 2][2 * (i % 2) + i / 4];
  }
};

// Over the lanes of a row.
template <typename Tile>
__device__ __forceinline__ float largest_of_row(float of_lane) {
#pragma unroll
  for (int bit = Tile::kFirstOfRow; bit < Tile::kPastRow; bit *= 2) {
    of_lane = fmaxf(of_lane, __shfl_xor_sync(~0u, of_lane, bit));
  }
  return of_lane;
}

template <typename Tile>
__device__ __forceinline__ float sum_of_row(float of_lane) {
#pragma unroll
  for (int bit = Tile::kFirstOfRow; bit < Tile::kPastRow; bit *= 2) {
    of_lane += __shfl_xor_sync(~0u, of_lane, bit);
  }
  return of_lane;
}

}  // namespace gtq::cuda
