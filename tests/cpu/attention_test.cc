// Every kernel of the machine against attention in double on the decoded token rows of the same bytes.
#include "reference/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "cpu/emulated_kernels.h"
#include "cpu/random_layer.h"

namespace gtq::test {
namespace {

constexpr double kTolerance = 3e-4;  // relative L2; integer kernels have 15-bit queries and weights
constexpr std::uint16_t kHalfMinusInfinity = 0xfc00;

struct Case {
  LayerProfile layer;
  std::unique_ptr<LayerCodec> codec, recent_codec;
  Cache cache, recent;
  std::vector<std::int32_t> recent_cells;
  std::vector<float> q, sinks, out;
  std::vector<std::uint16_t> mask;
  AttentionCall call;
};

std::vector<cpu::Kernel> all_kernels() {
  std::vector<cpu::Kernel> kernels = emulated_kernels();
  kernels.insert(kernels.end(), cpu::supported_kernels().begin(), cpu::supported_kernels().end());
  return kernels;
}

// The token in a slot of `cache` as that of a cell of the oracle.
void decode_token(const LayerCodec& codec, const Cache& cache, std::int64_t slot, std::int64_t cell,
                  reference::AttentionInput& input) {
  std::vector<std::uint8_t> keys(codec.key_token_bytes()), values(codec.value_token_bytes());
  std::vector<float> key(input.head_dim_k), value(input.head_dim_v);
  codec.load_key_rows(cache.key_pages.data(), slot, keys.data());
  codec.load_value_rows(cache.value_pages.data(), slot, values.data());
  const std::uint8_t *key_row = keys.data(), *value_row = values.data();
  for (int h = 0; h < input.n_kv_heads; ++h) {
    codec.key_codec(h).decode(key_row, cache.positions[slot], key.data());
    codec.value_codec(h).decode(value_row, value.data());
    std::copy(key.begin(), key.end(), &input.keys[(h * input.kv_len + cell) * input.head_dim_k]);
    std::copy(value.begin(), value.end(), &input.values[(h * input.kv_len + cell) * input.head_dim_v]);
    key_row += codec.key_codec(h).row_bytes();
    value_row += codec.value_codec(h).row_bytes();
  }
}

std::vector<double> expected(const Case& c) {
  const LayerCodec& codec = *c.codec;
  reference::AttentionInput input;
  input.n_q_heads = c.call.n_q_heads;
  input.n_kv_heads = codec.n_kv_heads();
  input.head_dim_k = codec.head_dim_k();
  input.head_dim_v = codec.head_dim_v();
  input.n_rows = c.call.n_rows;
  input.kv_len = c.call.kv_len;
  input.q.assign(c.q.begin(), c.q.end());
  input.keys.assign(static_cast<std::size_t>(input.n_kv_heads) * input.kv_len * input.head_dim_k, 0.0);
  input.values.assign(static_cast<std::size_t>(input.n_kv_heads) * input.kv_len * input.head_dim_v, 0.0);
  input.mask = c.mask;
  if (input.mask.empty()) input.mask.assign(static_cast<std::size_t>(input.n_rows * input.kv_len), 0);
  input.sinks.assign(c.sinks.begin(), c.sinks.end());
  input.sm_scale = c.call.sm_scale;
  input.logit_softcap = c.call.logit_softcap;
  input.alibi_max_bias = c.call.alibi_max_bias;

  std::vector<bool> filled(input.kv_len);
  for (std::int64_t j = 0; j < input.kv_len; ++j) {
    if (c.cache.positions[j] == kEmptyCell) continue;
    decode_token(codec, c.cache, j, j, input);
    filled[j] = true;
  }
  for (std::size_t i = 0; i < c.recent_cells.size(); ++i) {
    if (c.recent.positions[i] == kEmptyCell || c.recent_cells[i] >= input.kv_len) continue;
    decode_token(*c.recent_codec, c.recent, static_cast<std::int64_t>(i), c.recent_cells[i], input);
    filled[c.recent_cells[i]] = true;
  }
  for (std::int64_t j = 0; j < input.kv_len; ++j) {
    for (std::int64_t r = 0; !filled[j] && r < input.n_rows; ++r) {
      input.mask[r * input.kv_len + j] = kHalfMinusInfinity;
    }
  }
  return reference::attention(input);
}

double relative_l2(const std::vector<float>& got, const std::vector<double>& want) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    norm += want[i] * want[i];
  }
  return norm == 0 ? std::sqrt(error) : std::sqrt(error / norm);
}

std::vector<std::int32_t> random_positions(Random& random, int n) {
  const int kind = random_int(random, 0, 4);
  std::vector<std::int32_t> positions = consecutive(n, kind == 0 ? 0 : random_int(random, 0, 100000));
  if (kind >= 3) {  // jumps and holes
    for (std::int32_t& position : positions) {
      if (random_int(random, 0, 9) == 0) position = kEmptyCell;
      if (kind == 4 && position >= 0) position = random_int(random, 0, 5000);
    }
  }
  if (n > 130 && random_int(random, 0, 1) == 0) std::fill_n(positions.begin() + 64, 64, kEmptyCell);
  return positions;
}

std::vector<std::uint16_t> random_mask(Random& random, std::int64_t n_rows, std::int64_t kv_len) {
  std::vector<std::uint16_t> mask(n_rows * kv_len, 0);
  const int kind = random_int(random, 0, 3);
  for (std::int64_t r = 0; r < n_rows; ++r) {
    for (std::int64_t j = 0; j < kv_len; ++j) {
      const bool hole = kind == 1 ? random_int(random, 0, 2) == 0 : kind >= 2 && j > kv_len - n_rows + r;
      // Small negative biases, subnormal halves among them.
      const int bias = kind == 3 ? 0x8000 | random_int(random, 0, 0x4400) : 0;
      mask[r * kv_len + j] = hole ? kHalfMinusInfinity : static_cast<std::uint16_t>(bias);
    }
    if (kind == 1 && random_int(random, 0, 5) == 0) {  // a row that attends nothing
      std::fill_n(mask.begin() + r * kv_len, kv_len, kHalfMinusInfinity);
    }
  }
  return mask;
}

LayerCodec* new_codec(Random& random, const LayerProfile& layer) {
  const int n_groups = layer.head_dim_k / kGroupDims;  // a key spends any number of bits on them
  const double k_bits = 1.0 * random_int(random, n_groups, 6 * n_groups) / n_groups;
  return new LayerCodec(layer, Budget{k_bits, 1.0 * random_int(random, 1, 6)});
}

// Takes some tokens out of the pages, a run of cells or any, and puts them apart as recent ones; some slots
// stay empty and some hold tokens of cells that the call does not see.
void set_recent_apart(Random& random, Case& c) {
  const auto n_cells = static_cast<std::int32_t>(c.cache.positions.size());
  for (std::int32_t cell = 0; cell < n_cells + 10; ++cell) c.recent_cells.push_back(cell);
  if (random_int(random, 0, 1) == 0) {
    std::shuffle(c.recent_cells.begin(), c.recent_cells.end(), random);
  } else {
    c.recent_cells.erase(c.recent_cells.begin(), c.recent_cells.begin() + random_int(random, 0, n_cells));
  }
  c.recent_cells.resize(random_int(random, 1, std::min<int>(150, static_cast<int>(c.recent_cells.size()))));
  std::vector<std::int32_t> positions;
  for (const std::int32_t cell : c.recent_cells) {
    const bool stays = random_int(random, 0, 9) == 0;
    positions.push_back(stays ? kEmptyCell : cell < n_cells ? c.cache.positions[cell] : 5);
    if (!stays && cell < n_cells) c.cache.positions[cell] = kEmptyCell;
  }
  c.cache.page_positions.update(c.cache.positions.data(), n_cells);
  c.recent_codec.reset(new_codec(random, c.layer));
  c.recent = random_cache(random, *c.recent_codec, std::move(positions), random_int(random, 0, 2) == 0);
}

PackedTokens recent_tokens(const Case& c) {
  return {.codec = c.recent_codec.get(),
          .key_pages = c.recent.key_pages.data(),
          .value_pages = c.recent.value_pages.data(),
          .positions = c.recent.positions.data(),
          .page_positions = &c.recent.page_positions,
          .kv_len = static_cast<std::int64_t>(c.recent.positions.size())};
}

Case random_case(unsigned seed, bool prefill, int most_cells = 300) {
  Random random(seed);
  Case c;
  const int n_kv_heads = random_int(random, 1, 3);
  const int n_q_heads = n_kv_heads * random_int(random, 1, 8);
  const int head_dim_k = 16 * random_int(random, 1, 16), head_dim_v = 16 * random_int(random, 1, 16);
  const float shares[] = {0.0f, 0.5f, 1.0f};
  c.layer =
      random_layer(random, n_q_heads, n_kv_heads, head_dim_k, head_dim_v, shares[random_int(random, 0, 2)]);
  c.codec.reset(new_codec(random, c.layer));
  c.cache = random_cache(random, *c.codec, random_positions(random, random_int(random, 1, most_cells)),
                         random_int(random, 0, 2) == 0);
  if (random_int(random, 0, 1) == 0) set_recent_apart(random, c);
  const int n_rows = prefill ? random_int(random, 8, 60) : random_int(random, 1, 3);
  const float sigma = random_int(random, 0, 1) == 0 ? 0.3f : 1.0f;
  for (int i = 0; i < n_rows * n_q_heads * head_dim_k; ++i) c.q.push_back(random_normal(random, sigma));
  c.call = make_call(*c.codec, c.cache, n_q_heads, n_rows, c.q, c.out);
  if (c.recent_codec != nullptr) {
    c.call.recent = recent_tokens(c);
    c.call.recent_cells = c.recent_cells.data();
  }
  if (random_int(random, 0, 2) != 0) {
    c.mask = random_mask(random, n_rows, c.call.kv_len);
    c.call.mask = c.mask.data();
    c.call.mask_row_stride = c.call.kv_len * sizeof(std::uint16_t);
  }
  if (random_int(random, 0, 2) == 0) {
    for (int h = 0; h < n_q_heads; ++h) c.sinks.push_back(random_normal(random, 2.0f));
    c.call.sinks = c.sinks.data();
  }
  if (random_int(random, 0, 2) == 0) c.call.logit_softcap = 5.0f;
  if (random_int(random, 0, 2) == 0) c.call.alibi_max_bias = 8.0f;
  return c;
}

void check_cases(unsigned first_seed, unsigned n, bool prefill) {
  for (unsigned seed = first_seed; seed < first_seed + n; ++seed) {
    Case c = random_case(seed, prefill);
    const std::vector<double> want = expected(c);
    for (const cpu::Kernel& kernel : all_kernels()) {
      std::fill(c.out.begin(), c.out.end(), std::nanf(""));
      run_attention(kernel, c.call, 1 + static_cast<int>(seed % 4));
      EXPECT_LT(relative_l2(c.out, want), kTolerance)
          << kernel.name << ", seed " << seed << ", head_dim " << c.codec->head_dim_k() << "/"
          << c.codec->head_dim_v() << ", heads " << c.call.n_q_heads << "/" << c.codec->n_kv_heads()
          << ", rows " << c.call.n_rows << ", kv_len " << c.call.kv_len;
    }
  }
}

TEST(Attention, DecodeAgreesWithOracle) { check_cases(1, 300, false); }
TEST(Attention, PrefillAgreesWithOracle) { check_cases(1001, 100, true); }

// So many pages that phases which are turned on from page to page have to begin anew.
TEST(Attention, LongCacheAgreesWithOracle) {
  Random random(11);
  Case c;
  c.layer = random_layer(random, 2, 1, 64, 32, 1.0f);
  c.codec = std::make_unique<LayerCodec>(c.layer, Budget{});
  c.cache = random_cache(random, *c.codec, consecutive(9000, 20000), false);
  for (int i = 0; i < 2 * 64; ++i) c.q.push_back(random_normal(random));
  c.call = make_call(*c.codec, c.cache, 2, 1, c.q, c.out);
  const std::vector<double> want = expected(c);
  for (const cpu::Kernel& kernel : all_kernels()) {
    run_attention(kernel, c.call, 1);
    EXPECT_LT(relative_l2(c.out, want), kTolerance) << kernel.name;
  }
}

// A cell for every norm byte of keys and of values, both mean keys in every page. A row attends one cell, which
// shows its value's norm, or two neighbours, whose weights show the norms of their keys.
TEST(Attention, EveryNormByte) {
  constexpr int kCells = 256, kDim = 64;
  Random random(13);
  Case c;
  c.layer = random_layer(random, 1, 1, kDim, kDim, 1.0f);
  c.codec = std::make_unique<LayerCodec>(c.layer, Budget{});
  c.cache = random_cache(random, *c.codec, consecutive(kCells, 500), false);
  std::vector<std::uint8_t> key(c.codec->key_token_bytes()), value(c.codec->value_token_bytes());
  for (int cell = 0; cell < kCells; ++cell) {
    c.codec->load_key_rows(c.cache.key_pages.data(), cell, key.data());
    c.codec->load_value_rows(c.cache.value_pages.data(), cell, value.data());
    key[0] = static_cast<std::uint8_t>(cell / 2 + cell % 2 * 128);
    value[0] = static_cast<std::uint8_t>(cell);
    c.codec->store_key_rows(c.cache.key_pages.data(), cell, key.data());
    c.codec->store_value_rows(c.cache.value_pages.data(), cell, value.data());
  }
  for (int i = 0; i < 2 * kCells * kDim; ++i) c.q.push_back(random_normal(random, 0.05f));
  c.call = make_call(*c.codec, c.cache, 1, 2 * kCells, c.q, c.out);
  c.mask.assign(2 * kCells * kCells, kHalfMinusInfinity);
  for (int cell = 0; cell < kCells; ++cell) {
    c.mask[cell * kCells + cell] = 0;
    c.mask[(kCells + cell) * kCells + cell] = c.mask[(kCells + cell) * kCells + (cell ^ 1)] = 0;
  }
  c.call.mask = c.mask.data();
  c.call.mask_row_stride = kCells * sizeof(std::uint16_t);
  const std::vector<double> want = expected(c);
  for (const cpu::Kernel& kernel : all_kernels()) {
    run_attention(kernel, c.call, 1);
    for (int row = 0; row < 2 * kCells; ++row) {
      const auto at = row * kDim;
      EXPECT_LT(relative_l2({c.out.begin() + at, c.out.begin() + at + kDim},
                            {want.begin() + at, want.begin() + at + kDim}),
                kTolerance)
          << kernel.name << ", row " << row;
    }
  }
}

// Small shapes, thousands of them: every width, head_dim, group and mask against the plainest kernel.
TEST(Attention, KernelsAgree) {
  for (unsigned seed = 5000; seed < 8000; ++seed) {
    Case c = random_case(seed, false, 70);
    const cpu::Kernel& plain = cpu::supported_kernels().back();
    run_attention(plain, c.call, 1);
    const std::vector<double> want(c.out.begin(), c.out.end());
    for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
      if (&kernel == &plain) continue;
      std::fill(c.out.begin(), c.out.end(), std::nanf(""));
      run_attention(kernel, c.call, 1);
      EXPECT_LT(relative_l2(c.out, want), kTolerance) << kernel.name << ", seed " << seed;
    }
  }
}

TEST(Attention, RepeatsItself) {
  for (const bool prefill : {false, true}) {
    Case c = random_case(7, prefill);
    for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
      for (const int n_threads : {1, 3}) {
        run_attention(kernel, c.call, n_threads);
        const std::vector<float> first = c.out;
        run_attention(kernel, c.call, n_threads);
        EXPECT_EQ(first, c.out) << kernel.name;
      }
    }
  }
}

TEST(Attention, NothingToAttendGivesZeros) {
  Random random(3);
  const LayerProfile layer = random_layer(random, 4, 2, 64, 64, 1.0f);
  const LayerCodec codec(layer, Budget{});
  const Cache cache = random_cache(random, codec, std::vector<std::int32_t>(100, kEmptyCell), false);
  const std::vector<float> q(4 * 64, 1.0f);
  std::vector<float> out;
  const AttentionCall call = make_call(codec, cache, 4, 1, q, out);
  for (const cpu::Kernel& kernel : cpu::supported_kernels()) {
    std::fill(out.begin(), out.end(), 1.0f);
    run_attention(kernel, call, 2);
    EXPECT_EQ(out, std::vector<float>(out.size(), 0.0f)) << kernel.name;
  }
}

TEST(Attention, ThreadsAgree) {
  Case c = random_case(11, true);
  const cpu::Kernel& kernel = cpu::active_kernel();
  run_attention(kernel, c.call, 1);
  const std::vector<double> one(c.out.begin(), c.out.end());
  for (const int n_threads : {2, 5, 16}) {
    run_attention(kernel, c.call, n_threads);
    // Pages are dealt out, so other pages share a tile, whose weights have one step.
    EXPECT_LT(relative_l2(c.out, one), 1e-4) << n_threads;
  }
}

}  // namespace
}  // namespace gtq::test
