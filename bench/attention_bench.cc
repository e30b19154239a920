// Attention of gtq and of ggml by Google Benchmark: a benchmark is one cache on one shape, a repetition one
// round of src/bench, in which all caches of the shape are timed in turn. Who gets to a repetition first runs
// the round; the others report their times of it.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/attention_cases.h"
#include "gtq/error.h"
#include "initialize.h"

namespace gtq::bench {
namespace {

Setup make_setup() {
  Setup setup;
  setup.kernels.emplace_back(cpu::supported_kernels().front().name);
  setup.budgets = {{3, 3}, {4, 4}};
  return setup;
}

// The rounds of the shape in use; another shape's take their place.
class Rounds {
 public:
  explicit Rounds(Peer& peer) : peer_(peer) {}

  const AttentionCases& until(const Shape& shape, std::size_t round) {
    if (!cases_ || shape != shape_) cases_ = std::make_unique<AttentionCases>(setup_, shape, &peer_);
    shape_ = shape;
    while (cases_->cases().front().seconds.size() <= round) cases_->run_round();
    return *cases_;
  }
  // The names that a shape's cases have, without its caches.
  std::vector<std::string> names(Shape shape) {
    Setup small = setup_;
    small.spread_mib = 0;
    shape.kv_len = shape.n_rows;
    const AttentionCases cases(small, shape, &peer_);
    std::vector<std::string> names;
    for (const Case& one : cases.cases()) names.push_back(one.name);
    return names;
  }

 private:
  Setup setup_ = make_setup();
  Peer& peer_;
  Shape shape_ = {};
  std::unique_ptr<AttentionCases> cases_;
};

void add_shape(Rounds& rounds, const Shape& shape) {
  const std::vector<std::string> names = rounds.names(shape);
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::string name = fmt::format("rows:{}/head_dim:{}/group:{}/cells:{}/{}", shape.n_rows, shape.head_dim,
                                   shape.group, shape.kv_len, names[i]);
    std::replace(name.begin(), name.end(), ' ', '_');
    benchmark::RegisterBenchmark(
        name.c_str(),
        [&rounds, shape, i, round = std::size_t{0}](benchmark::State& state) mutable {
          const AttentionCases& cases = rounds.until(shape, round);
          const auto seconds = [round](const Case& one) { return one.seconds[round]; };
          for ([[maybe_unused]] auto _ : state) state.SetIterationTime(seconds(cases.cases()[i]));
          for_each(cases.figures(cases.cases()[i], seconds),
                   [&state](const char* figure, double number) { state.counters[figure] = number; });
          ++round;
        })
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  }
}

void add_shapes(Rounds& rounds) {
  for (const int head_dim : {64, 128}) {
    for (const int group : {1, 4, 6, 8}) {
      for (const int kv_len : {4096, 16384}) add_shape(rounds, {head_dim, group, 1, kv_len});
    }
    for (const int group : {1, 4}) add_shape(rounds, {head_dim, group, 512, 4096});
  }
}

}  // namespace
}  // namespace gtq::bench

int main(int argc, char** argv) {
  using namespace gtq::bench;
  if (!initialize(argc, argv, {"--benchmark_repetitions=21", "--benchmark_display_aggregates_only=true"}))
    return 1;
  try {
    Peer peer(GTQ_LLAMA_CPP_BIN, 1);
    Rounds rounds(peer);
    add_shapes(rounds);
    benchmark::RunSpecifiedBenchmarks();
  } catch (const gtq::Error& error) {
    fmt::print(stderr, "gtq_attention_bench: {}\n", error.what());
    return 1;
  }
  return 0;
}
