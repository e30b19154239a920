// The packed cache under llama.cpp's own API: context shift, states in memory, sequences and streams. Needs
// GTQ_PROFILE.
#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "llama.h"
#include "plugin/llama_harness.h"

namespace gtq::testing {
namespace {

constexpr int kGenerated = 22;
constexpr int kPrompt = 300;  // more than four pages, not a whole number of them

// Mean divergence of a packed cache from an f16 one over 24 tokens after the prompt, with or without a shift.
double mean_divergence(bool shift) {
  const Context packed = context(true), stock = context(false);
  for (llama_context* ctx : {packed.get(), stock.get()}) {
    decode(ctx, 0, kPrompt);
    if (!shift) continue;
    llama_memory_t memory = llama_get_memory(ctx);
    llama_memory_seq_rm(memory, 0, 10, 110);
    llama_memory_seq_add(memory, 0, 110, -1, -100);
  }
  constexpr int kTokens = 24;
  double sum = 0;
  for (int i = kPrompt; i < kPrompt + kTokens; ++i) {
    const Place place = {0, i - (shift ? 100 : 0)};
    const Logits expected = decode(stock.get(), i, i + 1, place);
    sum += divergence(expected, decode(packed.get(), i, i + 1, place)) / kTokens;
  }
  return sum;
}

TEST_F(CacheTest, ContextShiftCostsLittle) {
  const double before = mean_divergence(false), after = mean_divergence(true);
  std::printf("mean KLD %.5f without a shift, %.5f after one\n", before, after);
  EXPECT_GT(before, 1e-6);  // otherwise nothing was packed
  EXPECT_LT(before, 0.10);
  EXPECT_LT(after, 2.5 * before + 1e-4);
}

// A state that is taken out and put back, in other cells or over other tokens, gives the same bits. Recent
// tokens may come to lie in other slots, where sums have another order.
void expect_state_survives(llama_state_seq_flags flags, bool over_others = false) {
  const Context ctx = context(true, 2);
  decode(ctx.get(), 0, kPrompt - kGenerated);
  for (int i = kPrompt - kGenerated; i < kPrompt; ++i) decode(ctx.get(), i, i + 1, {0, i});
  std::vector<std::uint8_t> state(llama_state_seq_get_size_ext(ctx.get(), 0, flags));
  ASSERT_EQ(llama_state_seq_get_data_ext(ctx.get(), state.data(), state.size(), 0, flags), state.size());
  const Logits expected = decode(ctx.get(), kPrompt, kPrompt + 1, {0, kPrompt});
  llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, -1, -1);
  if (over_others) decode(ctx.get(), 100, 320, {1, 0});
  for (int time = 0; time < 2; ++time) {
    ASSERT_EQ(llama_state_seq_set_data_ext(ctx.get(), state.data(), state.size(), 1, flags), state.size());
  }
  const Logits restored = decode(ctx.get(), kPrompt, kPrompt + 1, {1, kPrompt});
  if (keeps_recent()) return expect_near(expected, restored, 5e-5, "restored");
  EXPECT_EQ(restored, expected);
}

TEST_F(CacheTest, StateInMemory) { expect_state_survives(LLAMA_STATE_SEQ_FLAGS_NONE); }
TEST_F(CacheTest, StateOnDevice) { expect_state_survives(LLAMA_STATE_SEQ_FLAGS_ON_DEVICE); }
TEST_F(CacheTest, StateOverOtherTokens) { expect_state_survives(LLAMA_STATE_SEQ_FLAGS_NONE, true); }

// Tokens that are taken back and decoded again, as drafts that were not accepted, over pages of recent tokens.
TEST_F(CacheTest, TokensTakenBack) {
  const Context ctx = context(true), straight = context(true);
  decode(ctx.get(), 0, kPrompt);
  decode(straight.get(), 0, kPrompt);
  for (int at = kPrompt; at < kPrompt + 40; at += 3) {
    decode(ctx.get(), 0, 8, {0, at});
    llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, at, -1);
    const Logits expected = decode(straight.get(), at, at + 3, {0, at});
    EXPECT_EQ(decode(ctx.get(), at, at + 3, {0, at}), expected) << at;
  }
}

// Programs that look at tensors have a batch computed in pieces, each a graph of its own (the first one is
// whole, by which the model is recognised).
TEST_F(CacheTest, BatchesInPieces) {
  static bool in_pieces = false;
  const auto look = [](ggml_tensor* t, bool ask, void*) {
    return !ask || (in_pieces && std::string_view(t->name).starts_with("l_out"));
  };
  const Context whole = context(true), pieces = context(true, 1, false, 512, look);
  constexpr int kBatch = 20;
  for (int i = 0; i < kPrompt; i += kBatch) {
    in_pieces = i > 0;
    const Logits x = decode(pieces.get(), i, i + kBatch, {0, i});
    expect_near(decode(whole.get(), i, i + kBatch, {0, i}), x, 1e-6, "in pieces");
  }
}

// llama.cpp applies it in a destructor, where nobody can catch an error: better an end in words than garbage.
TEST_F(CacheTest, ForeignStateInMemoryEndsTheProgram) {
  const Context ctx = context(true);
  decode(ctx.get(), 0, 10);
  std::vector<std::uint8_t> state(llama_state_seq_get_size(ctx.get(), 0));
  ASSERT_EQ(llama_state_seq_get_data(ctx.get(), state.data(), state.size(), 0), state.size());
  constexpr std::string_view kMagic = "GTQ1";
  const auto row = std::search(state.begin(), state.end(), kMagic.begin(), kMagic.end());
  ASSERT_NE(row, state.end());
  *row = 'X';
  EXPECT_DEATH(llama_state_seq_set_data(ctx.get(), state.data(), state.size(), 0),
               "gtq: this saved state was not written by gtq");
}

TEST_F(CacheTest, SequenceCopy) {
  for (const bool unified : {false, true}) {
    const Context ctx = context(true, 2, unified);
    decode(ctx.get(), 0, kPrompt);
    llama_memory_seq_cp(llama_get_memory(ctx.get()), 0, 1, -1, -1);
    const Logits expected = decode(ctx.get(), kPrompt, kPrompt + 1, {0, kPrompt});
    llama_memory_seq_rm(llama_get_memory(ctx.get()), 0, kPrompt, -1);
    expect_near(expected, decode(ctx.get(), kPrompt, kPrompt + 1, {1, kPrompt}), 1e-6, "copy");
  }
}

// Four sequences in one batch, then a token of each per batch. With a stream for each, they run as if alone. In
// a unified cache their cells mix within pages; float sums then differ in the last bits, which changes the
// codes of a few later keys, so only the distance to f16 is compared. There they share the recent tokens, too.
TEST_F(CacheTest, SequencesDoNotMix) {
  constexpr int kShort = 70, kSteps = 12;
  const Context stock = context(false), alone = context(true), streams = context(true, 4),
                unified = context(true, 4, true);
  std::vector<Place> places = {{0, 0}, {1, 0}, {2, 0}, {3, 0}};
  decode(stock.get(), 0, kShort);
  decode(alone.get(), 0, kShort);
  decode(streams.get(), 0, kShort, places);
  decode(unified.get(), 0, kShort, places);
  double kld_alone = 0, kld_unified = 0;
  for (int i = kShort; i < kShort + kSteps; ++i) {
    for (Place& place : places) place.first = i;
    const Logits reference = decode(stock.get(), i, i + 1, {0, i});
    const Logits expected = decode(alone.get(), i, i + 1, {0, i});
    kld_alone += divergence(reference, expected) / kSteps;
    for (const Logits& x : decode(streams.get(), i, i + 1, places)) expect_near(expected, x, 2e-3, "streams");
    for (const Logits& x : decode(unified.get(), i, i + 1, places)) {
      kld_unified += divergence(reference, x) / (4 * kSteps);
    }
  }
  std::printf("mean KLD %.5f alone, %.5f unified\n", kld_alone, kld_unified);
  EXPECT_LT(kld_unified, (keeps_recent() ? 5 : 2) * kld_alone + 0.005);
}

// A program that looks at tensors has each batch computed in pieces, here of a layer each, by which the model
// is not known. Sums are the same.
TEST_F(CacheTest, PiecesOfABatch) {
  const auto look = [](ggml_tensor* t, bool ask, void*) {
    return !ask || std::string_view(t->name).starts_with("l_out");
  };
  const Context pieces = context(true, 1, false, 512, look), whole = context(true);
  EXPECT_EQ(decode(pieces.get(), 0, kPrompt), decode(whole.get(), 0, kPrompt));
  for (int i = kPrompt; i < kPrompt + 3; ++i) {
    EXPECT_EQ(decode(pieces.get(), i, i + 1, {0, i}), decode(whole.get(), i, i + 1, {0, i}));
  }
}

}  // namespace
}  // namespace gtq::testing
