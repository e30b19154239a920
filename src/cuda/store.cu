// Quantizes rows of keys and values into pages, bit by bit as KeyCodec and ValueCodec do (src/codec).
//
// L lanes of a warp (a power of two, at least head_dim / 16) do one vector; a lane owns one quant_group of a
// key or 16 dims of a value in registers. Sums run in the order of the CPU codec: within a lane, then lane
// after lane. This file is compiled without contraction to fused multiply-adds. Norm codes come from a table of
// the smallest norm of every code, made with the CPU's own functions, so no logarithm has to agree. One source
// of difference is left: sines and cosines of doubles whose last bit decides how they round to float. Grid: x
// over vectors, y = 0 keys, 1 values.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "cuda/layer.h"
#include "cuda/page_codes.cuh"
#include "gtq/error.h"

namespace gtq::cuda {
namespace {

constexpr int kThreads = 64;
constexpr int kOwn = 16;        // elements of a lane
constexpr int kCandidates = 5;  // norm codes -4, -2, 0, 2, 4 around that of the rms

// Shared memory; the last index is the thread.
struct Scratch {
  CodecTable codec;
  float residual[2][kOwn][kThreads];   // key minus mean key, per mean
  double distance[2][kOwn][kThreads];  // its weighted square
  std::uint32_t codes[kCandidates][kOwn / 4][kThreads];
  float fit[2][kCandidates][kThreads];  // sums of y centroid and of centroid^2 of the lane's group
};

struct StoreParams {
  LayerView layer;
  Cache cache;
  Rows keys, values;
  const std::int64_t* cells;
  const std::int32_t* positions;
  long long n_rows;
};

// The part of a vector that a lane owns.
struct Owner {
  int lane, n_lanes, n_used;  // of the vector; n_used own elements
  long long row;
  int head;
  bool active;
};

__device__ Owner find_owner(const StoreParams& p, int head_dim) {
  Owner own;
  own.n_used = head_dim / kOwn;
  own.n_lanes = own.n_used <= 1 ? 1 : 1 << (32 - __clz(own.n_used - 1));
  const long long i = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  own.lane = static_cast<int>(i % own.n_lanes);
  const long long vector = i / own.n_lanes;
  own.row = vector / p.layer.n_kv_heads;
  own.head = static_cast<int>(vector % p.layer.n_kv_heads);
  own.active = own.row < p.n_rows && p.cells[own.row] >= 0;
  return own;
}

__device__ float load_element(const Rows& rows, long long i) {
  switch (rows.type) {
    case Type::kF16:
      return __half2float(static_cast<const __half*>(rows.data)[i]);
    case Type::kBf16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(rows.data)[i]);
    default:
      return static_cast<const float*>(rows.data)[i];
  }
}

__device__ float load_finite(const Rows& rows, const Owner& own, int dim) {
  const float x = load_element(rows, own.row * rows.row_stride + own.head * rows.head_stride + dim);
  return isfinite(x) ? x : 0.0f;
}

template <typename T>
__device__ T from_lane(const Owner& own, T x, int lane) {
  return __shfl_sync(~0u, x, lane, own.n_lanes);
}

// sums[i] = x[i] of lane 0 + x[i] of lane 1 + ..., in this order.
template <typename T, int kSums>
__device__ void sum_lanes(const Owner& own, T (&x)[kSums]) {
  T sums[kSums] = {};
  for (int g = 0; g < own.n_used; ++g) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) sums[i] += from_lane(own, x[i], g);
  }
#pragma unroll
  for (int i = 0; i < kSums; ++i) x[i] = sums[i];
}

// sums[c] = x[c][0] + x[c][1] + ... over all elements of the vector, in order.
template <typename T, int kChains>
__device__ void chain_sums(const Owner& own, const T (&x)[kChains][kOwn], T (&sums)[kChains]) {
#pragma unroll
  for (int c = 0; c < kChains; ++c) sums[c] = 0;
  for (int g = 0; g < own.n_used; ++g) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
#pragma unroll
      for (int c = 0; c < kChains; ++c) sums[c] += x[c][j];
    }
#pragma unroll
    for (int c = 0; c < kChains; ++c) sums[c] = from_lane(own, sums[c], g);
  }
}

// Sums of both distances over all elements, in order.
__device__ void chain_distances(const Owner& own, const Scratch& scratch, double (&sums)[2]) {
  sums[0] = sums[1] = 0;
#pragma unroll 1
  for (int g = 0; g < own.n_used; ++g) {
#pragma unroll 4
    for (int j = 0; j < kOwn; ++j) {
      sums[0] += scratch.distance[0][j][threadIdx.x];
      sums[1] += scratch.distance[1][j][threadIdx.x];
    }
    sums[0] = from_lane(own, sums[0], g);
    sums[1] = from_lane(own, sums[1], g);
  }
}

// codes[i]: largest code whose smallest norm is at most norms[i]; starts ascend.
template <int kNorms>
__device__ void find_norm_codes(const float* starts, int n_codes, const float (&norms)[kNorms],
                                int (&codes)[kNorms]) {
#pragma unroll
  for (int i = 0; i < kNorms; ++i) codes[i] = 0;
#pragma unroll 1
  for (int bit = n_codes / 2; bit > 0; bit /= 2) {
#pragma unroll
    for (int i = 0; i < kNorms; ++i) {
      if (norms[i] >= starts[codes[i] + bit]) codes[i] += bit;
    }
  }
}

__device__ int find_norm_code(const float* starts, int n_codes, float norm) {
  const float norms[1] = {norm};
  int codes[1];
  find_norm_codes(starts, n_codes, norms, codes);
  return codes[0];
}

// codes[i]: number of thresholds below y[i] * inverse.
__device__ void nearest_codes(const float* thresholds, int width, const float (&y)[kOwn], float inverse,
                              int (&codes)[kOwn]) {
#pragma unroll
  for (int i = 0; i < kOwn; ++i) codes[i] = 0;
#pragma unroll 1
  for (int bit = 1 << (width - 1); bit > 0; bit /= 2) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (y[i] * inverse > thresholds[codes[i] + bit - 1]) codes[i] += bit;
    }
  }
}

template <int kPoints>
__device__ void butterflies(float (&x)[kPoints]) {
#pragma unroll
  for (int half = 1; half < kPoints; half *= 2) {
#pragma unroll
    for (int i = 0; i < kPoints; ++i) {
      if ((i & half) != 0) continue;
      const float a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
}

// Mean key c of slot pair i at a position.
__device__ float2 rotated_mean(const HeadTable& head, int head_dim, int c, int pair, float2 turn) {
  const float x = head.mean_keys[c * head_dim + head.dims[2 * pair]];
  const float y = head.mean_keys[c * head_dim + head.dims[2 * pair + 1]];
  return make_float2(x * turn.x - y * turn.y, x * turn.y + y * turn.x);
}

// Residuals of a slot pair to both mean keys, and their weighted squares.
__device__ void pair_residuals(const StoreParams& p, const HeadTable& head, const Owner& own, int i,
                               Scratch& scratch) {
  const int slot = own.lane * kOwn + i, thread = static_cast<int>(threadIdx.x);
  const float k[2] = {load_finite(p.keys, own, head.dims[slot]), load_finite(p.keys, own, head.dims[slot + 1])};
  float2 turn = make_float2(1, 0);
  if (head.pair_centred[slot / 2] != 0) {
    double sine, cosine;
    sincos(head.pair_theta[slot / 2] * static_cast<double>(p.positions[own.row]), &sine, &cosine);
    turn = make_float2(static_cast<float>(cosine), static_cast<float>(sine));
  }
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const float2 mean = rotated_mean(head, p.layer.head_dim_k, c, slot / 2, turn);
    const float means[2] = {mean.x, mean.y};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const double difference = static_cast<double>(k[e]) - means[e];
      scratch.residual[c][i + e][thread] = k[e] - means[e];
      scratch.distance[c][i + e][thread] = head.weight[slot + e] * difference * difference;
    }
  }
}

// y = signed and scaled residual of the lane's group to the nearer mean key; returns that mean's index.
__device__ int key_residual(const StoreParams& p, const HeadTable& head, const Owner& own, Scratch& scratch,
                            float (&y)[kOwn]) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int i = 0; i < kOwn; i += 2) {
    if (own.lane < own.n_used) pair_residuals(p, head, own, i, scratch);
  }
  double sums[2];
  chain_distances(own, scratch, sums);
  const int c = sums[0] < sums[1] ? 0 : 1;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int slot = own.lane * kOwn + i;
    y[i] = own.lane < own.n_used
               ? scratch.codec.key_signs[slot] * head.scale[slot] * scratch.residual[c][i][thread]
               : 0.0f;
  }
  return c;
}

// Codes of y / norm of every candidate, four to a word, and the lane's sums of the least-squares fit.
__device__ void quantize(const float (&y)[kOwn], int width, int start, Scratch& scratch) {
  const CodecTable& codec = scratch.codec;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 1
  for (int k = 0; k < kCandidates; ++k) {
    const float inverse = 1.0f / codec.key_norms[min(max(start + 2 * k - 4, 0), kKeyNormCodes - 1)];
    int codes[kOwn];
    nearest_codes(codec.thresholds[width - 1], width, y, inverse, codes);
    float yc = 0, cc = 0;
#pragma unroll
    for (int i = 0; i < kOwn; i += 4) {
      std::uint32_t word = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float centroid = codec.centroids[width - 1][codes[i + j]];
        word |= static_cast<std::uint32_t>(codes[i + j]) << (8 * j);
        yc += y[i + j] * centroid;
        cc += centroid * centroid;
      }
      scratch.codes[k][i / 4][thread] = word;
    }
    scratch.fit[0][k][thread] = yc;
    scratch.fit[1][k][thread] = cc;
  }
}

// Index and norm code of the candidate with the smallest weighted error; index -1 when all errors are not
// finite.
__device__ int2 choose_fit(const Owner& own, float group_weight, float yy, const Scratch& scratch) {
  float yc[kCandidates], cc[kCandidates], ratio[kCandidates];
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) {
    yc[k] = group_weight * scratch.fit[0][k][threadIdx.x];
    cc[k] = group_weight * scratch.fit[1][k][threadIdx.x];
  }
  sum_lanes(own, yc);
  sum_lanes(own, cc);
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) ratio[k] = yc[k] / cc[k];
  int norms[kCandidates];
  find_norm_codes(scratch.codec.key_norm_starts, kKeyNormCodes, ratio, norms);
  int2 best = make_int2(-1, 0);
  float best_error = INFINITY;
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) {
    const float fitted = scratch.codec.key_norms[norms[k]];
    const float error = yy - 2 * fitted * yc[k] + fitted * fitted * cc[k];
    if (error < best_error) {
      best_error = error;
      best = make_int2(k, norms[k]);
    }
  }
  return best;
}

__device__ void store_key(const StoreParams& p, Scratch& scratch) {
  const Owner own = find_owner(p, p.layer.head_dim_k);
  if (!__any_sync(~0u, own.active)) return;
  const HeadTable head = p.layer.heads[own.head];
  const int width = own.lane < own.n_used ? head.widths[own.lane] : 1;
  float y[kOwn];
  Owner read = own;
  if (!own.active) read.row = 0;  // computes beside the others
  const int c = key_residual(p, head, read, scratch, y);
  const float group_weight = own.lane < own.n_used ? head.group_weight[own.lane] : 0.0f;
  float group_sum = 0, group_yy = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) group_sum += y[i] * y[i];
  butterflies(y);
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    y[i] *= 0.25f;
    group_yy += y[i] * y[i];
  }
  // Sum and weights before the transform for the start of the search; energy after it for the errors.
  float sums[3] = {group_weight * group_sum, group_weight * static_cast<float>(kOwn), group_weight * group_yy};
  sum_lanes(own, sums);
  const int start = find_norm_code(scratch.codec.key_norm_starts, kKeyNormCodes, sqrtf(sums[0] / sums[1]));
  quantize(y, width, start, scratch);
  const int2 best = choose_fit(own, group_weight, sums[2], scratch);
  if (!own.active || own.lane >= own.n_used) return;
  std::uint32_t words[kOwn / 4];
#pragma unroll
  for (int i = 0; i < kOwn / 4; ++i) words[i] = best.x < 0 ? 0 : scratch.codes[best.x][i][threadIdx.x];
  const CellPlace at = place_of_cell(p.cells[own.row]);
  std::uint8_t* page = p.cache.key_pages + at.page * p.layer.key_page_bytes + head.key_offset;
  put_key_codes(page + 128 * sum_of_widths(head.widths, own.lane), width, at.in_page, words);
  if (own.lane == 0) {
    page[head.key_bytes - kCells + at.in_page] = static_cast<std::uint8_t>(c << 7 | best.y);
    if (own.head == 0) p.cache.positions[p.cells[own.row]] = p.positions[own.row];
  }
}

// Hadamard transform of runs of `n_points` elements over the lanes of a vector, n_points a power of two.
__device__ void rotate_value(const Owner& own, int n_points, float (&y)[kOwn]) {
  butterflies(y);
  for (int bit = 1; bit < n_points / kOwn; bit *= 2) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float other = __shfl_xor_sync(~0u, y[i], bit, own.n_lanes);
      y[i] = (own.lane & bit) != 0 ? other - y[i] : y[i] + other;
    }
  }
  const float scale = 1.0f / sqrtf(static_cast<float>(n_points));
#pragma unroll
  for (int i = 0; i < kOwn; ++i) y[i] *= scale;
}

__device__ void store_value(const StoreParams& p, Scratch& scratch) {
  const Owner own = find_owner(p, p.layer.head_dim_v);
  if (!__any_sync(~0u, own.active)) return;
  const HeadTable head = p.layer.heads[own.head];
  const CodecTable& codec = scratch.codec;
  const int d = p.layer.head_dim_v, width = p.layer.v_width, thread = static_cast<int>(threadIdx.x);
  const float inverse_rms = 1.0f / head.v_rms;
  Owner read = own;
  if (!own.active) read.row = 0;
#pragma unroll 1
  for (int i = 0; i < kOwn; ++i) {
    const int dim = own.lane * kOwn + i;
    scratch.residual[0][i][thread] =
        own.lane < own.n_used ? codec.value_signs[dim] * load_finite(p.values, read, dim) * inverse_rms : 0.0f;
  }
  float y[kOwn], terms[1][kOwn], sums[1];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    y[i] = scratch.residual[0][i][thread];
    terms[0][i] = y[i] * y[i];
  }
  chain_sums(own, terms, sums);
  const float sum = sums[0];
  rotate_value(own, d & -d, y);
  const float norm = sqrtf(sum / static_cast<float>(d));
  const float inverse = norm > 0.0f ? 1.0f / norm : 0.0f;
  int codes[kOwn];
  nearest_codes(codec.thresholds[width - 1], width, y, inverse, codes);
  std::uint32_t words[kOwn / 4] = {};
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const float centroid = codec.centroids[width - 1][codes[i]];
    words[i / 4] |= static_cast<std::uint32_t>(codes[i]) << (8 * (i % 4));
    terms[0][i] = centroid * centroid;
  }
  chain_sums(own, terms, sums);
  if (!own.active || own.lane >= own.n_used) return;
  const CellPlace at = place_of_cell(p.cells[own.row]);
  std::uint8_t* page = p.cache.value_pages + at.page * p.layer.value_page_bytes + head.value_offset;
  put_value_codes(page, d, width, at.in_page, own.lane, words);
  if (own.lane == 0) {
    page[head.value_bytes - kCells + at.in_page] = static_cast<std::uint8_t>(
        find_norm_code(codec.value_norm_starts, kValueNormCodes, sqrtf(sum / sums[0])));
  }
}

__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreParams p) {
  __shared__ Scratch scratch;
  const uint4* from = reinterpret_cast<const uint4*>(p.layer.codec);
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(CodecTable) / 16); i += kThreads) {
    reinterpret_cast<uint4*>(&scratch.codec)[i] = from[i];
  }
  __syncthreads();
  if (blockIdx.y == 0) {
    store_key(p, scratch);
  } else {
    store_value(p, scratch);
  }
}

}  // namespace

void store(const StoreCall& call, Stream stream) {
  if (call.n_rows == 0) return;
  const LayerView& layer = call.layer->impl().view;
  if (call.cache.positions == nullptr) throw Error("store on the GPU needs an array of positions");
  const StoreParams p{layer, call.cache, call.keys, call.values, call.cells, call.positions, call.n_rows};
  const int most = std::max(layer.head_dim_k, layer.head_dim_v);
  int n_lanes = 1;
  while (n_lanes * kOwn < most) n_lanes *= 2;
  const long long n_threads = call.n_rows * layer.n_kv_heads * n_lanes;
  store_kernel<<<dim3(static_cast<unsigned>((n_threads + kThreads - 1) / kThreads), 2), kThreads, 0, stream>>>(
      p);
  check_launch("store");
}

}  // namespace gtq::cuda
