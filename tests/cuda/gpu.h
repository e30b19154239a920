// Device memory and caches for the tests of src/cuda.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "cpu/random_layer.h"
#include "gtq/cuda.h"
#include "reference/attention.h"
#include "reference/codec.h"

namespace gtq::test {

inline bool has_gpu() {
  int n = 0;
  return cudaGetDeviceCount(&n) == cudaSuccess && n > 0;
}

#define GTQ_NEEDS_GPU() \
  if (!has_gpu()) GTEST_SKIP() << "no GPU"

inline void expect_ok(cudaError_t status) { ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status); }

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) {
    expect_ok(cudaMalloc(&data_, std::max<std::size_t>(n, 1) * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& items) : DeviceArray(items.size()) { upload(items); }
  ~DeviceArray() { cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }
  void upload(const std::vector<T>& items) {
    expect_ok(cudaMemcpy(data_, items.data(), items.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  void fill(int byte) { expect_ok(cudaMemset(data_, byte, n_ * sizeof(T))); }
  std::vector<T> download() const {
    std::vector<T> items(n_);
    expect_ok(cudaDeviceSynchronize());
    expect_ok(cudaMemcpy(items.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return items;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_;
};

// A cache of n_pages pages on the GPU, all cells empty, bytes arbitrary.
class DeviceCache {
 public:
  DeviceCache(const LayerCodec& codec, std::int64_t n_pages)
      : keys_(n_pages * codec.key_page_bytes()),
        values_(n_pages * codec.value_page_bytes()),
        positions_(n_pages * kPageTokens),
        summaries_(n_pages) {
    keys_.fill(0x5a);
    values_.fill(0xa5);
    positions_.fill(0xff);
    summaries_.fill(0);
  }
  cuda::Cache view() const { return {keys_.data(), values_.data(), positions_.data(), summaries_.data()}; }
  void set_positions(const std::vector<std::int32_t>& positions) { positions_.upload(positions); }
  std::vector<std::int32_t> positions() const { return positions_.download(); }
  std::vector<std::uint8_t> key_bytes() const { return keys_.download(); }
  std::vector<std::uint8_t> value_bytes() const { return values_.download(); }

 private:
  DeviceArray<std::uint8_t> keys_, values_;
  DeviceArray<std::int32_t> positions_;
  DeviceArray<cuda::PageSummary> summaries_;
};

inline double relative_l2(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

// The largest of the rows of n numbers.
inline double worst_row_l2(const std::vector<float>& got, const std::vector<double>& want, int n) {
  double worst = 0;
  for (std::size_t i = 0; i < want.size(); i += n) {
    const auto first = static_cast<std::ptrdiff_t>(i), last = first + n;
    worst = std::max(worst, relative_l2({got.begin() + first, got.begin() + last},
                                        {want.begin() + first, want.begin() + last}));
  }
  return worst;
}

// Runs what `record` puts on a stream: as it comes, or twice from a CUDA graph.
template <typename Record>
void run_on_stream(bool captured, Record record) {
  cudaStream_t stream;
  expect_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  if (captured) {
    cudaGraph_t graph;
    cudaGraphExec_t replay;
    expect_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    record(stream);
    expect_ok(cudaStreamEndCapture(stream, &graph));
    expect_ok(cudaGraphInstantiate(&replay, graph, 0));
    for (int i = 0; i < 2; ++i) expect_ok(cudaGraphLaunch(replay, stream));
    expect_ok(cudaStreamSynchronize(stream));
    expect_ok(cudaGraphExecDestroy(replay));
    expect_ok(cudaGraphDestroy(graph));
  } else {
    record(stream);
    expect_ok(cudaStreamSynchronize(stream));
  }
  expect_ok(cudaStreamDestroy(stream));
}

// Token rows of all heads, cell after cell, and what they decode to.
struct TokenRows {
  std::vector<std::uint8_t> keys, values;
};

inline TokenRows random_token_rows(Random& random, const LayerCodec& codec, std::int64_t n_cells,
                                   bool mixed_means) {
  TokenRows rows;
  for (std::int64_t cell = 0; cell < n_cells; ++cell) {
    for (int h = 0; h < codec.n_kv_heads(); ++h) {
      const std::size_t key_at = rows.keys.size(), value_at = rows.values.size();
      rows.keys.resize(key_at + codec.key_codec(h).row_bytes());
      rows.values.resize(value_at + codec.value_codec(h).row_bytes());
      for (std::size_t i = key_at; i < rows.keys.size(); ++i)
        rows.keys[i] = static_cast<std::uint8_t>(random());
      for (std::size_t i = value_at; i < rows.values.size(); ++i)
        rows.values[i] = static_cast<std::uint8_t>(random());
      const bool first_mean = cell == 0 || (mixed_means && random_int(random, 0, 3) == 0);
      rows.keys[key_at] = static_cast<std::uint8_t>((first_mean ? 0 : 128) | random_int(random, 32, 60));
      rows.values[value_at] =
          static_cast<std::uint8_t>(random_int(random, 0, 30) == 0 ? 0 : random_int(random, 130, 175));
    }
  }
  return rows;
}

}  // namespace gtq::test
