// Speed of the GPU kernels: decode over packed pages, prefill, store, and the read ceiling of the card.
//
//   gtq_cuda_attention_bench [decode|prefill|store|read|all]
//   gtq_cuda_attention_bench decode Q_HEADS KV_HEADS BATCH KV_LEN MEANS [early]
//
// decode: graph replay of launches over rotated caches of at least 1 GB together, median of 11 replays, one
// query row per sequence; early: DecodeCall::begins_early. share: time that the bytes of the packed cache need
// at the measured read ceiling / measured time. Widths are mixed (1 to 5, mean 3); `means` is the number of
// centred rope_blocks of 64. prefill: one cache, attended again and again. bench/cuda_peers.py measures fp16
// attention at the same shapes.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/prefill.h"
#include "gtq/cuda.h"

namespace {

constexpr int kReplays = 11;
constexpr double kRotatedBytes = 1.1e9;

void ok(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(status));
  std::exit(1);
}

// Median microseconds of one of the n launches that `record` makes on the stream.
template <typename Record>
double time_graph(int n, Record record) {
  cudaStream_t stream;
  ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  record(stream);  // loads modules
  ok(cudaStreamSynchronize(stream));
  cudaGraph_t graph;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  record(stream);
  ok(cudaStreamEndCapture(stream, &graph));
  cudaGraphExec_t replay;
  ok(cudaGraphInstantiate(&replay, graph, 0));
  cudaEvent_t begin, end;
  ok(cudaEventCreate(&begin));
  ok(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kReplays + 2; ++i) {
    ok(cudaEventRecord(begin, stream));
    ok(cudaGraphLaunch(replay, stream));
    ok(cudaEventRecord(end, stream));
    ok(cudaEventSynchronize(end));
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) times.push_back(ms);
  }
  ok(cudaGraphExecDestroy(replay));
  ok(cudaGraphDestroy(graph));
  ok(cudaStreamDestroy(stream));
  std::nth_element(times.begin(), times.begin() + kReplays / 2, times.end());
  return 1e3 * times[kReplays / 2] / n;
}

template <typename T>
T* device_alloc(std::size_t n) {
  T* data = nullptr;
  ok(cudaMalloc(&data, n * sizeof(T)));
  return data;
}

float* device_normals(std::size_t n, unsigned seed) {
  std::vector<float> numbers(n);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (float& x : numbers) x = normal(random);
  auto* data = device_alloc<float>(n);
  ok(cudaMemcpy(data, numbers.data(), n * sizeof(float), cudaMemcpyHostToDevice));
  return data;
}

__global__ void fill_random(std::uint32_t* words, std::size_t n, std::uint32_t seed) {
  for (std::size_t i = blockIdx.x * std::size_t{256} + threadIdx.x; i < n; i += gridDim.x * std::size_t{256}) {
    std::uint32_t x = static_cast<std::uint32_t>(i) * 2654435761u + seed;
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    words[i] = x ^ x >> 16;
  }
}

// 64 norm bytes at the end of every head's page: base + 0..7.
__global__ void fill_norms(std::uint8_t* pages, std::size_t page_bytes, std::size_t at, int base) {
  const unsigned page = blockIdx.x, j = threadIdx.x;
  pages[page * page_bytes + at + j] = static_cast<std::uint8_t>(base + (page * 7 + j * 5) % 8);
}

__global__ void read_all(const uint4* data, std::size_t n, unsigned* out) {
  unsigned sum = 0;
#pragma unroll 8
  for (std::size_t i = blockIdx.x * std::size_t{512} + threadIdx.x; i < n; i += gridDim.x * std::size_t{512}) {
    const uint4 v = data[i];
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345) *out = sum;
}

double read_ceiling() {  // bytes per microsecond
  const std::size_t n_bytes = std::size_t{4} << 30;
  auto* data = device_alloc<uint4>(n_bytes / 16);
  auto* out = device_alloc<unsigned>(1);
  fill_random<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(data), n_bytes / 4, 1);
  const double us = time_graph(
      1, [&](cudaStream_t stream) { read_all<<<132 * 4, 512, 0, stream>>>(data, n_bytes / 16, out); });
  ok(cudaFree(data));
  ok(cudaFree(out));
  return static_cast<double>(n_bytes) / us;
}

gtq::LayerProfile make_profile(int n_q_heads, int n_kv_heads, int n_means) {
  constexpr int kDim = 128, kBlocks = kDim / 2;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  gtq::LayerProfile layer;
  layer.n_q_heads = n_q_heads;
  layer.n_kv_heads = n_kv_heads;
  layer.head_dim_k = layer.head_dim_v = kDim;
  layer.rope.mode = gtq::RopeMode::kNeox;
  layer.rope.n_rot = kDim;
  layer.rope.freq_base = 1e6f;
  layer.mean_keys.assign(std::size_t{gtq::kMeans} * n_kv_heads * kDim, 0.0f);
  for (int h = 0; h < n_kv_heads; ++h) {
    layer.rms_v.push_back(1.0f);
    for (int i = 0; i < kBlocks; ++i) {
      // Slow rope_blocks, the last, have the mean keys, as in models.
      const bool centred = i >= kBlocks - n_means;
      const float energy = std::exp(1.2f * normal(random));
      layer.energy_q.push_back(std::exp(normal(random)));
      layer.energy_e.push_back(energy);
      layer.energy_k.push_back(centred ? 5 * energy : energy);
      for (int e = 0; e < 2; ++e) {
        for (int c = 0; c < gtq::kMeans; ++c) {
          layer.mean_keys[(std::size_t(c) * n_kv_heads + h) * kDim + i + e * kBlocks] =
              (c == 0 ? -1 : 1) * std::sqrt(2 * energy);
        }
      }
    }
  }
  return layer;
}

struct Shape {
  int n_q_heads, n_kv_heads, batch;
  long long kv_len;
  int n_means;
  bool begins_early = false;
};

struct Caches {
  Caches(const gtq::LayerCodec& codec, long long pages, int copies) : n_pages(pages), n(copies) {
    key_bytes = codec.key_page_bytes();
    value_bytes = codec.value_page_bytes();
    keys = device_alloc<std::uint8_t>(n * n_pages * key_bytes);
    values = device_alloc<std::uint8_t>(n * n_pages * value_bytes);
    fill_random<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(keys), n * n_pages * key_bytes / 4, 3);
    fill_random<<<2048, 256>>>(reinterpret_cast<std::uint32_t*>(values), n * n_pages * value_bytes / 4, 5);
    std::size_t key_at = 0, value_at = 0;
    const auto blocks = static_cast<unsigned>(n * n_pages);
    for (int h = 0; h < codec.n_kv_heads(); ++h) {
      key_at += 64 * codec.key_codec(h).row_bytes();
      value_at += 64 * codec.value_codec(h).row_bytes();
      fill_norms<<<blocks, 64>>>(keys, key_bytes, key_at - 64, 128 + 44);
      fill_norms<<<blocks, 64>>>(values, value_bytes, value_at - 64, 156);
    }
    ok(cudaDeviceSynchronize());
  }
  ~Caches() {
    cudaFree(keys);
    cudaFree(values);
  }
  gtq::cuda::Cache view(int i) const {
    return {keys + i * n_pages * key_bytes, values + i * n_pages * value_bytes, nullptr, nullptr};
  }

  long long n_pages;
  int n;
  std::size_t key_bytes, value_bytes;
  std::uint8_t *keys, *values;
};

void bench_decode(const Shape& shape, double ceiling) {
  const gtq::LayerCodec codec(make_profile(shape.n_q_heads, shape.n_kv_heads, shape.n_means),
                              gtq::Budget{3, 3});
  const gtq::cuda::Layer layer(codec);
  const long long pages = (shape.kv_len + 63) / 64;
  const double bytes = static_cast<double>(shape.batch * pages) *
                       static_cast<double>(codec.key_page_bytes() + codec.value_page_bytes());
  const int n = static_cast<int>(std::clamp(std::ceil(kRotatedBytes / bytes), 2.0, 64.0));
  const Caches caches(codec, shape.batch * pages, n);
  const std::size_t n_q = std::size_t(shape.batch) * shape.n_q_heads * 128;
  float* q = device_normals(n_q, 2);
  auto* out = device_alloc<float>(n_q);
  gtq::cuda::DecodeCall call;
  call.layer = &layer;
  call.sequences.batch = shape.batch;
  call.sequences.kv_len = shape.kv_len;
  call.sequences.pages_per_sequence = pages;
  call.n_q_heads = shape.n_q_heads;
  call.q = q;
  call.q_head_stride = call.out_head_stride = 128;
  call.q_row_stride = call.q_batch_stride = call.out_row_stride = call.out_batch_stride = 128 * shape.n_q_heads;
  call.out = out;
  call.sm_scale = 1 / std::sqrt(128.0f);
  call.begins_early = shape.begins_early;
  const std::size_t workspace_bytes = gtq::cuda::decode_workspace_bytes(call);
  call.workspace = device_alloc<std::uint8_t>(workspace_bytes);
  ok(cudaMemset(call.workspace, 0, workspace_bytes));
  const double us = time_graph(n, [&](cudaStream_t stream) {
    for (int i = 0; i < n; ++i) {
      call.cache = caches.view(i);
      gtq::cuda::decode(call, stream);
    }
  });
  std::printf("gtq k3v3  %3d/%-2d B%-2d %4lldK  means %2d%s  %8.2f us  %5.2f TB/s  share %.2f\n",
              shape.n_q_heads, shape.n_kv_heads, shape.batch, shape.kv_len / 1024, shape.n_means,
              shape.begins_early ? " early" : "", us, bytes / us * 1e-6, bytes / ceiling / us);
  std::fflush(stdout);
  cudaFree(q);
  cudaFree(out);
  cudaFree(call.workspace);
}

void bench_decode_all(double ceiling) {
  const Shape shapes[] = {{16, 2, 1, 8192, 0},   {16, 2, 1, 32768, 0},  {16, 2, 1, 131072, 0},
                          {32, 8, 1, 8192, 0},   {32, 8, 1, 32768, 0},  {32, 8, 1, 131072, 0},
                          {32, 8, 8, 32768, 0},  {32, 8, 32, 32768, 0}, {128, 8, 1, 131072, 0},
                          {32, 32, 1, 32768, 0}, {16, 2, 1, 524288, 0}};
  for (const int n_means : {16, 0, 32, 64}) {
    for (Shape shape : shapes) {
      shape.n_means = n_means;
      bench_decode(shape, ceiling);
      if (n_means != 16) continue;
      shape.begins_early = true;
      bench_decode(shape, ceiling);
    }
  }
}

// n_rows query rows that all see kv_len keys, or causal ones at their end; 16 mean blocks. By each kernel of
// this GPU.
void bench_prefill(int n_q_heads, int n_kv_heads, int n_rows, long long kv_len, bool causal) {
  const gtq::LayerCodec codec(make_profile(n_q_heads, n_kv_heads, 16), gtq::Budget{3, 3});
  const gtq::cuda::Layer layer(codec);
  const Caches caches(codec, kv_len / 64, 1);
  const std::size_t n_q = static_cast<std::size_t>(n_rows) * n_q_heads * 128;
  float* q = device_normals(n_q, 2);
  auto* out = device_alloc<float>(n_q);
  gtq::cuda::PrefillCall call;
  call.layer = &layer;
  call.cache = caches.view(0);
  call.kv_len = kv_len;
  call.n_q_heads = n_q_heads;
  call.n_rows = n_rows;
  call.q = q;
  call.q_head_stride = call.out_head_stride = 128;
  call.q_row_stride = call.out_row_stride = 128 * n_q_heads;
  call.out = out;
  call.causal = causal;
  call.sm_scale = 1 / std::sqrt(128.0f);
  const double seen = static_cast<double>(kv_len) - (causal ? (n_rows - 1) / 2.0 : 0);
  const double flops = 4.0 * n_rows * seen * 128 * n_q_heads;
  for (const auto kernel : {gtq::cuda::PrefillKernel::kSm80, gtq::cuda::best_prefill_kernel(layer)}) {
    for (const long long chunk_keys : {2048, 8192}) {
      call.chunk_keys = chunk_keys;
      const std::size_t workspace_bytes = gtq::cuda::prefill_workspace_bytes(call);
      call.workspace = device_alloc<std::uint8_t>(workspace_bytes);
      const double us = time_graph(2, [&](cudaStream_t stream) {
        for (int i = 0; i < 2; ++i) gtq::cuda::prefill_with(kernel, call, stream);
      });
      std::printf(
          "prefill k3v3  %3d/%-2d %5d x %4lldK%s  %s  chunks of %4lld (%3zu MiB)  %9.1f us  %4.0f TFLOP/s\n",
          n_q_heads, n_kv_heads, n_rows, kv_len / 1024, causal ? " causal" : "",
          kernel == gtq::cuda::PrefillKernel::kSm90 ? "sm90" : "sm80", chunk_keys, workspace_bytes >> 20, us,
          flops / us * 1e-6);
      std::fflush(stdout);
      ok(cudaFree(call.workspace));
    }
  }
  ok(cudaFree(q));
  ok(cudaFree(out));
}

// Rows of one layer with 8 KV heads into fresh cells.
void bench_store(long long n_rows) {
  constexpr int kHeads = 8, kDim = 128;
  const gtq::LayerCodec codec(make_profile(32, kHeads, 16), gtq::Budget{3, 3});
  const gtq::cuda::Layer layer(codec);
  const long long n_pages = (n_rows + 63) / 64;
  const Caches caches(codec, n_pages, 1);
  const std::size_t n_elements = static_cast<std::size_t>(n_rows) * kHeads * kDim;
  float* rows = device_normals(2 * n_elements, 3);
  std::vector<std::int64_t> cells(n_rows);
  std::vector<std::int32_t> positions(n_rows);
  for (long long i = 0; i < n_rows; ++i) cells[i] = i, positions[i] = static_cast<std::int32_t>(i);
  auto* device_cells = device_alloc<std::int64_t>(n_rows);
  auto* device_positions = device_alloc<std::int32_t>(n_rows);
  auto* cell_positions = device_alloc<std::int32_t>(n_pages * 64);
  ok(cudaMemcpy(device_cells, cells.data(), n_rows * 8, cudaMemcpyHostToDevice));
  ok(cudaMemcpy(device_positions, positions.data(), n_rows * 4, cudaMemcpyHostToDevice));
  gtq::cuda::StoreCall call;
  call.layer = &layer;
  call.cache = caches.view(0);
  call.cache.positions = cell_positions;
  call.keys = {rows, gtq::cuda::Type::kF32, kHeads * kDim, kDim};
  call.values = {rows + n_elements, gtq::cuda::Type::kF32, kHeads * kDim, kDim};
  call.cells = device_cells;
  call.positions = device_positions;
  call.n_rows = n_rows;
  constexpr int kLaunches = 16;
  const double us = time_graph(kLaunches, [&](cudaStream_t stream) {
    for (int i = 0; i < kLaunches; ++i) gtq::cuda::store(call, stream);
  });
  std::printf("store k3v3  8 heads, %6lld tokens  %8.2f us  %7.1f GB/s of f32 rows\n", n_rows, us,
              2.0 * static_cast<double>(n_elements) * 4 / us * 1e-3);
  cudaFree(rows);
  cudaFree(device_cells);
  cudaFree(device_positions);
  cudaFree(cell_positions);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all";
  cudaDeviceProp device;
  ok(cudaGetDeviceProperties(&device, 0));
  std::printf("%s, %d multiprocessors\n", device.name, device.multiProcessorCount);
  const double ceiling = read_ceiling();
  std::printf("read ceiling %.2f TB/s\n", ceiling * 1e-6);
  if (argc >= 7) {
    bench_decode({std::atoi(argv[2]), std::atoi(argv[3]), std::atoi(argv[4]), std::atoll(argv[5]),
                  std::atoi(argv[6]), argc > 7},
                 ceiling);
    return 0;
  }
  if (what == "all" || what == "store") {
    for (const long long n : {1, 8, 512, 8192}) bench_store(n);
  }
  if (what == "all" || what == "decode") bench_decode_all(ceiling);
  if (what == "all" || what == "prefill") {
    bench_prefill(32, 8, 4096, 32768, false);
    bench_prefill(32, 8, 4096, 32768, true);
    bench_prefill(16, 2, 512, 32768, false);
  }
  return 0;
}
