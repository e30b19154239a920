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

constexpr int kThreads = 128;
constexpr int kOwn = 16;  // elements of a lane

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

// Largest code whose smallest norm is at most `norm`; starts ascend.
__device__ int norm_code(const float* starts, int n_codes, float norm) {
  int code = 0;
  for (int bit = n_codes / 2; bit > 0; bit /= 2) {
    if (norm >= starts[code + bit]) code += bit;
  }
  return code;
}

__device__ int nearest_code(const float* thresholds, int width, float x) {
  int code = 0;
  for (int bit = 1 << (width - 1); bit > 0; bit /= 2) {
    if (x > thresholds[code + bit - 1]) code += bit;
  }
  return code;
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

// y = transformed residual of the lane's group before its scale; returns the mean index.
__device__ int key_residual(const StoreParams& p, const CodecTable& codec, const HeadTable& head,
                            const Owner& own, float (&y)[kOwn]) {
  const int d = p.layer.head_dim_k, first = own.lane * kOwn;
  const double position = static_cast<double>(p.positions[own.row]);
  float residual[2][kOwn];
  double distance[2][kOwn] = {};
  if (own.lane < own.n_used) {
#pragma unroll
    for (int i = 0; i < kOwn; i += 2) {
      const int pair = (first + i) / 2;
      const float k0 = load_finite(p.keys, own, head.dims[first + i]);
      const float k1 = load_finite(p.keys, own, head.dims[first + i + 1]);
      float2 mean[2] = {make_float2(0, 0), make_float2(0, 0)};
      if (head.pair_centred[pair] != 0) {
        const double angle = head.pair_theta[pair] * position;
        const float2 turn = make_float2(static_cast<float>(cos(angle)), static_cast<float>(sin(angle)));
        for (int c = 0; c < 2; ++c) mean[c] = rotated_mean(head, d, c, pair, turn);
      }
      const float weight = head.weight[first + i], weight1 = head.weight[first + i + 1];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        residual[c][i] = k0 - mean[c].x;
        residual[c][i + 1] = k1 - mean[c].y;
        const double e0 = static_cast<double>(k0) - mean[c].x, e1 = static_cast<double>(k1) - mean[c].y;
        distance[c][i] = weight * e0 * e0;
        distance[c][i + 1] = weight1 * e1 * e1;
      }
    }
  }
  double sums[2];
  chain_sums(own, distance, sums);
  const int c = sums[0] < sums[1] ? 0 : 1;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    y[i] = 0;
    if (own.lane < own.n_used) {
      y[i] = codec.key_signs[first + i] * head.scale[first + i] * (c == 0 ? residual[0][i] : residual[1][i]);
    }
  }
  return c;
}

constexpr int kCandidates = 5;  // norm codes -4, -2, 0, 2, 4 around that of the rms

// Codes of y / norm of every candidate, four to a word, and the parts of the least-squares fit of this lane's
// group.
struct Fits {
  std::uint32_t codes[kCandidates][kOwn / 4];
  float yc[kCandidates], cc[kCandidates];
};

__device__ void quantize(const CodecTable& codec, const float (&y)[kOwn], int width, int start, Fits& fits) {
  const float *thresholds = codec.thresholds[width - 1], *centroids = codec.centroids[width - 1];
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) {
    const float inverse = 1.0f / codec.key_norms[min(max(start + 2 * k - 4, 0), kKeyNormCodes - 1)];
    fits.yc[k] = fits.cc[k] = 0;
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int code = nearest_code(thresholds, width, y[i] * inverse);
      const float centroid = centroids[code];
      fits.codes[k][i / 4] = (i % 4 == 0 ? 0u : fits.codes[k][i / 4]) | static_cast<std::uint32_t>(code)
                                                                            << (8 * (i % 4));
      fits.yc[k] += y[i] * centroid;
      fits.cc[k] += centroid * centroid;
    }
  }
}

// The norm code and codes of the candidate with the smallest weighted error.
__device__ int choose_fit(const CodecTable& codec, const Owner& own, float group_weight, float yy, Fits& fits,
                          std::uint8_t (&codes)[kOwn]) {
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) {
    fits.yc[k] *= group_weight;
    fits.cc[k] *= group_weight;
  }
  sum_lanes(own, fits.yc);
  sum_lanes(own, fits.cc);
  std::uint32_t best_codes[kOwn / 4] = {};
  int best_norm = 0;
  float best_error = INFINITY;
#pragma unroll
  for (int k = 0; k < kCandidates; ++k) {
    const float yc = fits.yc[k], cc = fits.cc[k];
    const int norm = norm_code(codec.key_norm_starts, kKeyNormCodes, yc / cc);
    const float fitted = codec.key_norms[norm];
    const float error = yy - 2 * fitted * yc + fitted * fitted * cc;
    if (error < best_error) {
      best_error = error;
      best_norm = norm;
#pragma unroll
      for (int i = 0; i < kOwn / 4; ++i) best_codes[i] = fits.codes[k][i];
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) codes[i] = static_cast<std::uint8_t>(best_codes[i / 4] >> (8 * (i % 4)));
  return best_norm;
}

__device__ void store_key(const StoreParams& p, const CodecTable& codec) {
  const Owner own = find_owner(p, p.layer.head_dim_k);
  if (!__any_sync(~0u, own.active)) return;
  const HeadTable head = p.layer.heads[own.head];
  const int width = own.lane < own.n_used ? head.widths[own.lane] : 1;
  float y[kOwn];
  Owner read = own;
  if (!own.active) read.row = 0;  // computes beside the others
  const int c = key_residual(p, codec, head, read, y);
  const float group_weight = own.lane < own.n_used ? head.group_weight[own.lane] : 0.0f;
  float group_sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) group_sum += y[i] * y[i];
  butterflies(y);
  float group_yy = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    y[i] *= 0.25f;
    group_yy += y[i] * y[i];
  }
  // Sum and weights before the transform for the start of the search; energy after it for the errors.
  float sums[3] = {group_weight * group_sum, group_weight * static_cast<float>(kOwn), group_weight * group_yy};
  sum_lanes(own, sums);
  const int start = norm_code(codec.key_norm_starts, kKeyNormCodes, sqrtf(sums[0] / sums[1]));
  Fits fits;
  quantize(codec, y, width, start, fits);
  std::uint8_t codes[kOwn];
  const int norm = choose_fit(codec, own, group_weight, sums[2], fits, codes);
  if (!own.active || own.lane >= own.n_used) return;
  const CellPlace at = place_of_cell(p.cells[own.row]);
  std::uint8_t* page = p.cache.key_pages + at.page * p.layer.key_page_bytes + head.key_offset;
  put_key_codes(page + 128 * sum_of_widths(head.widths, own.lane), width, at.in_page, codes);
  if (own.lane == 0) {
    page[head.key_bytes - kCells + at.in_page] = static_cast<std::uint8_t>(c << 7 | norm);
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

__device__ void store_value(const StoreParams& p, const CodecTable& codec) {
  const Owner own = find_owner(p, p.layer.head_dim_v);
  if (!__any_sync(~0u, own.active)) return;
  const HeadTable head = p.layer.heads[own.head];
  const int d = p.layer.head_dim_v, width = p.layer.v_width;
  const float inverse_rms = 1.0f / head.v_rms;
  Owner read = own;
  if (!own.active) read.row = 0;
  float y[kOwn], terms[1][kOwn], sums[1];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int dim = own.lane * kOwn + i;
    y[i] =
        own.lane < own.n_used ? codec.value_signs[dim] * load_finite(p.values, read, dim) * inverse_rms : 0.0f;
    terms[0][i] = y[i] * y[i];
  }
  chain_sums(own, terms, sums);
  const float sum = sums[0];
  rotate_value(own, d & -d, y);
  const float norm = sqrtf(sum / static_cast<float>(d));
  const float inverse = norm > 0.0f ? 1.0f / norm : 0.0f;
  std::uint8_t codes[kOwn];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    const int code = nearest_code(codec.thresholds[width - 1], width, y[i] * inverse);
    const float centroid = codec.centroids[width - 1][code];
    codes[i] = static_cast<std::uint8_t>(code);
    terms[0][i] = centroid * centroid;
  }
  chain_sums(own, terms, sums);
  const float coded = sums[0];
  if (!own.active || own.lane >= own.n_used) return;
  const CellPlace at = place_of_cell(p.cells[own.row]);
  std::uint8_t* page = p.cache.value_pages + at.page * p.layer.value_page_bytes + head.value_offset;
  put_value_codes(page, d, width, at.in_page, own.lane, codes);
  if (own.lane == 0) {
    page[head.value_bytes - kCells + at.in_page] =
        static_cast<std::uint8_t>(norm_code(codec.value_norm_starts, kValueNormCodes, sqrtf(sum / coded)));
  }
}

__global__ void __launch_bounds__(kThreads) store_kernel(const __grid_constant__ StoreParams p) {
  __shared__ CodecTable codec;
  const uint4* from = reinterpret_cast<const uint4*>(p.layer.codec);
  for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(sizeof(CodecTable) / 16); i += kThreads) {
    reinterpret_cast<uint4*>(&codec)[i] = from[i];
  }
  __syncthreads();
  if (blockIdx.y == 0) {
    store_key(p, codec);
  } else {
    store_value(p, codec);
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
