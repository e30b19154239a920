// What it costs to store a token: ns per token and KV head on one core, for each stage and encoder.
//
// Every stage walks through the same tokens; the least time of many rounds counts, since others use the
// machine.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "cpu/layer_tables.h"
#include "cpu/random_layer.h"

namespace gtq::bench {
namespace {

constexpr int kHeads = 4;
constexpr int kTokens = 512;
constexpr int kRounds = 200;

struct Inputs {
  std::vector<float> keys, values;  // [token][head][head_dim]
  std::vector<std::uint8_t> key_rows, value_rows, key_pages, value_pages;
};

Inputs make_inputs(test::Random& random, const LayerCodec& codec) {
  Inputs in;
  const std::size_t n = static_cast<std::size_t>(kTokens) * kHeads * codec.head_dim_k();
  for (std::size_t i = 0; i < n; ++i) {
    in.keys.push_back(test::random_normal(random, 2.0f));
    in.values.push_back(test::random_normal(random));
  }
  in.key_rows.resize(kTokens * codec.key_token_bytes());
  in.value_rows.resize(kTokens * codec.value_token_bytes());
  in.key_pages.resize(kTokens / kPageTokens * codec.key_page_bytes());
  in.value_pages.resize(kTokens / kPageTokens * codec.value_page_bytes());
  return in;
}

// ns per token and head; stage(token) does all heads of a token.
template <class Stage>
double measure(Stage stage) {
  double least = 1e30;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int token = 0; token < kTokens; ++token) stage(token);
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    least = std::min(least, time.count() / (kTokens * kHeads));
  }
  return least;
}

void run(const cpu::Kernel& kernel, const LayerCodec& codec, Inputs& in, std::string_view shape) {
  const auto& heads = codec.impl().heads;
  const int d = codec.head_dim_k();
  float turn[kMaxHeadDim];
  const double turns = measure([&](int t) { kernel.encoder->make_turn(codec.impl().angles, t + 1000, turn); });
  const double keys = measure([&](int t) {
    for (int h = 0; h < kHeads; ++h) {
      kernel.encoder->encode_key(heads[h]->row_tables.key(), &in.keys[(t * kHeads + h) * d], turn,
                                 &in.key_rows[t * codec.key_token_bytes() + heads[h]->key_row_offset]);
    }
  });
  const double values = measure([&](int t) {
    for (int h = 0; h < kHeads; ++h) {
      kernel.encoder->encode_value(heads[h]->row_tables.value(), &in.values[(t * kHeads + h) * d],
                                   &in.value_rows[t * codec.value_token_bytes() + heads[h]->value_row_offset]);
    }
  });
  const double key_scatter = measure(
      [&](int t) { codec.store_key_rows(in.key_pages.data(), t, &in.key_rows[t * codec.key_token_bytes()]); });
  const double value_scatter = measure([&](int t) {
    codec.store_value_rows(in.value_pages.data(), t, &in.value_rows[t * codec.value_token_bytes()]);
  });
  const double all = turns + keys + values + key_scatter + value_scatter;
  fmt::print("{:8} {:14} {:8.0f} {:8.0f} {:8.0f} {:8.0f} {:8.0f} {:8.0f}\n", kernel.name, shape, turns * kHeads,
             keys, values, key_scatter, value_scatter, all);
}

}  // namespace
}  // namespace gtq::bench

int main() {
  using namespace gtq;
  fmt::print("ns per token and KV head, {} heads; turn: per token, its share is in the sum\n", bench::kHeads);
  fmt::print("{:8} {:14} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}\n", "encoder", "shape", "turn", "key", "value",
             "key put", "val put", "sum");
  for (const int head_dim : {64, 128}) {
    for (const int bits : {3, 4}) {
      test::Random random(1);
      const LayerProfile layer =
          test::random_layer(random, bench::kHeads, bench::kHeads, head_dim, head_dim, 1.0f);
      const LayerCodec codec(layer, Budget{1.0 * bits, 1.0 * bits});
      bench::Inputs in = bench::make_inputs(random, codec);
      const std::string shape = fmt::format("{} k{}v{}", head_dim, bits, bits);
      for (const cpu::Kernel& kernel : cpu::supported_kernels()) bench::run(kernel, codec, in, shape);
    }
  }
  return 0;
}
