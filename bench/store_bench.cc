// What it costs to store a token, by Google Benchmark: each stage with each encoder, on one core. The least
// time of the repetitions counts, since others use the machine.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bench/random_cache.h"
#include "cpu/dispatch.h"
#include "cpu/layer_tables.h"
#include "initialize.h"

namespace gtq::bench {
namespace {

constexpr int kHeads = 4;
constexpr int kTokens = 512;

struct Inputs {
  std::vector<float> keys, values;  // [token][head][head_dim]
  std::vector<std::uint8_t> key_rows, value_rows, key_pages, value_pages;
};

Inputs make_inputs(Random& random, const LayerCodec& codec) {
  Inputs in;
  const std::size_t n = static_cast<std::size_t>(kTokens) * kHeads * codec.head_dim_k();
  for (std::size_t i = 0; i < n; ++i) {
    in.keys.push_back(random_normal(random, 2.0f));
    in.values.push_back(random_normal(random));
  }
  in.key_rows.resize(kTokens * codec.key_token_bytes());
  in.value_rows.resize(kTokens * codec.value_token_bytes());
  in.key_pages.resize(kTokens / kPageTokens * codec.key_page_bytes());
  in.value_pages.resize(kTokens / kPageTokens * codec.value_page_bytes());
  return in;
}

// What the stages of one shape and encoder share.
struct Store {
  Store(const LayerProfile& layer, const Budget& budget, const cpu::RowEncoder& its_encoder, Random& random)
      : codec(layer, budget), encoder(its_encoder), in(make_inputs(random, codec)) {}

  void turn_of(int token) { encoder.make_turn(codec.impl().angles, token + 1000, turn); }
  void keys(int token) {
    for (int h = 0; h < kHeads; ++h) {
      const auto& head = *codec.impl().heads[h];
      encoder.encode_key(head.row_tables.key(), &in.keys[(token * kHeads + h) * codec.head_dim_k()], turn,
                         &in.key_rows[token * codec.key_token_bytes() + head.key_row_offset]);
    }
  }
  void values(int token) {
    for (int h = 0; h < kHeads; ++h) {
      const auto& head = *codec.impl().heads[h];
      encoder.encode_value(head.row_tables.value(), &in.values[(token * kHeads + h) * codec.head_dim_v()],
                           &in.value_rows[token * codec.value_token_bytes() + head.value_row_offset]);
    }
  }
  void put_key(int token) {
    codec.store_key_rows(in.key_pages.data(), token, &in.key_rows[token * codec.key_token_bytes()]);
  }
  void put_value(int token) {
    codec.store_value_rows(in.value_pages.data(), token, &in.value_rows[token * codec.value_token_bytes()]);
  }

  LayerCodec codec;
  const cpu::RowEncoder& encoder;
  Inputs in;
  float turn[kMaxHeadDim] = {};
};

// The counter is the time of one item, of which a token has n_items.
void add_stage(const std::string& name, const std::shared_ptr<Store>& store, void (Store::*stage)(int),
               const char* item, int n_items) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for (int token = 0; token < kTokens; ++token)
                                   store->turn_of(token);  // keys need one
                                 for ([[maybe_unused]] auto _ : state) {
                                   for (int token = 0; token < kTokens; ++token) ((*store).*stage)(token);
                                 }
                                 using benchmark::Counter;
                                 state.counters[item] = Counter(
                                     kTokens * n_items, Counter::kIsIterationInvariantRate | Counter::kInvert);
                               })
      ->ComputeStatistics(
          "least",
          [](const std::vector<double>& times) { return *std::min_element(times.begin(), times.end()); })
      ->Unit(benchmark::kMicrosecond);
}

void add_stages(const cpu::Kernel& kernel, int head_dim, const Budget& budget) {
  Random random(1);
  const LayerProfile layer = random_layer(random, kHeads, kHeads, head_dim, head_dim, 1.0f);
  const auto store = std::make_shared<Store>(layer, budget, *kernel.encoder, random);
  const std::string name = fmt::format("{}/head_dim:{}/{}/", kernel.name, head_dim, to_string(budget));
  add_stage(name + "turn", store, &Store::turn_of, "per_token", 1);
  add_stage(name + "key", store, &Store::keys, "per_token_and_head", kHeads);
  add_stage(name + "value", store, &Store::values, "per_token_and_head", kHeads);
  add_stage(name + "key_scatter", store, &Store::put_key, "per_token_and_head", kHeads);
  add_stage(name + "value_scatter", store, &Store::put_value, "per_token_and_head", kHeads);
}

}  // namespace
}  // namespace gtq::bench

int main(int argc, char** argv) {
  using namespace gtq;
  if (!bench::initialize(argc, argv,
                         {"--benchmark_repetitions=20", "--benchmark_min_time=0.02",
                          "--benchmark_display_aggregates_only=true"})) {
    return 1;
  }
  for (const int head_dim : {64, 128}) {
    for (const double bits : {3, 4}) {
      for (const cpu::Kernel& kernel : cpu::supported_kernels())
        bench::add_stages(kernel, head_dim, {bits, bits});
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
