// Speed of the attention kernels on one thread: decode (one query row) and prefill (512 rows, causal, at the
// end of the cache), one KV head with g query heads, all rope_blocks centred or none.
//
//   ns/key/head   time per cell and query head
//   GMAC/s        multiply-adds of q k^T and p v, masked pairs not counted
//
// Every kernel of the machine is a benchmark of its own; GTQ_CPU is not read.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "cpu/random_layer.h"

namespace gtq {
namespace {

struct Shape {
  int head_dim, group, n_rows, kv_len;
  bool centred;
  int bits = 4;
};

void run(benchmark::State& state, const cpu::Kernel& kernel, const Shape& shape) {
  test::Random random(1);
  const int d = shape.head_dim;
  LayerProfile layer = test::random_layer(random, shape.group, 1, d, d, shape.centred ? 1.0f : 0.0f);
  layer.rope.n_rot = d;
  layer.rope.freq_base = 5e5f;
  const LayerCodec codec(layer, Budget{shape.bits, shape.bits});
  const test::Cache cache = test::random_cache(random, codec, test::consecutive(shape.kv_len, 0), false);
  std::vector<float> q, out;
  for (int i = 0; i < shape.n_rows * shape.group * d; ++i) q.push_back(test::random_normal(random));
  AttentionCall call = test::make_call(codec, cache, shape.group, shape.n_rows, q, out);
  std::vector<std::uint16_t> mask;
  double pairs = 0;
  for (std::int64_t r = 0; r < shape.n_rows; ++r) {
    const std::int64_t seen = shape.kv_len - shape.n_rows + r + 1;
    for (std::int64_t j = 0; j < shape.kv_len; ++j) mask.push_back(j < seen ? 0 : 0xfc00);
    pairs += static_cast<double>(seen) * shape.group;
  }
  call.mask = mask.data();
  call.mask_row_stride = shape.kv_len * sizeof(std::uint16_t);
  test::Workspace workspace(attention_workspace_bytes(call, 1));
  SpinBarrier barrier;
  for (auto _ : state) {
    cpu::attention_with(kernel, call, workspace.data(), barrier, 0, 1);
    benchmark::ClobberMemory();
  }
  using Counter = benchmark::Counter;
  state.counters["ns/key/head"] = Counter(pairs * 1e-9, Counter::kIsIterationInvariantRate | Counter::kInvert);
  state.counters["GMAC/s"] = Counter(pairs * 2 * d * 1e-9, Counter::kIsIterationInvariantRate);
}

void register_all() {
  for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
    const auto add = [&](const char* kind, const Shape& s) {
      const std::string name = fmt::format("{}/{}/k{}v{}/d:{}/g:{}/kv:{}{}", kernel.name, kind, s.bits, s.bits,
                                           s.head_dim, s.group, s.kv_len, s.centred ? "/centred" : "");
      benchmark::RegisterBenchmark(name.c_str(), [&kernel, s](benchmark::State& state) {
        run(state, kernel, s);
      })->Unit(benchmark::kMicrosecond);
    };
    for (const int d : {64, 128}) {
      for (const int g : {1, 6}) {
        for (const int kv_len : {4096, 16384}) {
          add("decode", {d, g, 1, kv_len, false});
          add("decode", {d, g, 1, kv_len, true});
        }
      }
      for (const int bits : {2, 3, 5, 6}) add("decode", {d, 1, 1, 4096, true, bits});
      for (const int bits : {2, 3, 5, 6}) add("decode", {d, 6, 1, 4096, true, bits});
      add("prefill", {d, 6, 512, 4096, true});
    }
  }
}

}  // namespace
}  // namespace gtq

int main(int argc, char** argv) {
  gtq::register_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
