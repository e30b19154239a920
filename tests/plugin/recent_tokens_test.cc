// Places of recent tokens against a plain model of them: every token is in one place, and the last ones of each
// stream are among the recent ones.
#include "plugin/recent_tokens.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <vector>

namespace gtq::plugin {
namespace {

constexpr int kRecent = 128, kStreams = 2;
constexpr std::int64_t kCells = 512;  // of one stream

// Tokens by cell, and what their rows would be: moves copy them, as stores do.
struct Model {
  RecentTokens recent{kRecent, kStreams, kCells};
  std::map<std::int64_t, int> cells, slots;  // token whose row lies there
  std::map<std::int64_t, int> tokens;        // of every cell
  std::map<std::int64_t, std::int32_t> positions;
  int n_tokens = 0;

  void store(const std::vector<std::int64_t>& batch, std::int32_t first_position) {
    std::vector<std::int32_t> at(batch.size());
    std::iota(at.begin(), at.end(), first_position);
    std::vector<RecentTokens::Move> moves;
    recent.begin_batch(batch, at.data(), moves);
    for (std::size_t t = 0; t < batch.size(); ++t) {
      const bool is_last = t + recent.capacity() >= batch.size();
      if (!recent.enter_first(batch[t], at[t]) && is_last) recent.enter(batch[t], at[t], moves);
    }
    for (const RecentTokens::Move& move : moves) {
      EXPECT_EQ(positions.at(move.cell), move.position);
      EXPECT_EQ(tokens.at(move.cell), slots.at(move.slot));
      cells[move.cell] = slots.at(move.slot);
    }
    for (std::size_t t = 0; t < batch.size(); ++t) {
      tokens[batch[t]] = n_tokens;
      positions[batch[t]] = at[t];
      const std::int64_t slot = recent.slot_of(batch[t]);
      (slot == RecentTokens::kNone ? cells[batch[t]] : slots[slot]) = n_tokens++;
    }
  }

  void check(const std::vector<std::int64_t>& batch) {
    std::map<std::int64_t, std::int64_t> owners;
    for (const auto& [cell, token] : tokens) {
      const std::int64_t slot = recent.slot_of(cell);
      EXPECT_EQ(slot == RecentTokens::kNone ? cells.at(cell) : slots.at(slot), token) << cell;
      if (slot == RecentTokens::kNone) continue;
      EXPECT_TRUE(owners.emplace(slot, cell).second) << slot;
      EXPECT_EQ(slot / recent.n_slots(), cell / kCells);
      EXPECT_EQ(recent.cells_of(cell / kCells)[slot % recent.n_slots()], cell % kCells);
      EXPECT_EQ(recent.position(slot), positions.at(cell));
    }
    for (std::size_t t = 0; t < batch.size(); ++t) {
      const bool stays = t + kRecent >= batch.size() || positions.at(batch[t]) < RecentTokens::kFirst;
      EXPECT_EQ(recent.slot_of(batch[t]) != RecentTokens::kNone, stays) << t;
    }
  }
};

std::vector<std::int64_t> run(std::int64_t first, std::int64_t n) {
  std::vector<std::int64_t> cells(n);
  std::iota(cells.begin(), cells.end(), first);
  return cells;
}

TEST(RecentTokens, EveryTokenIsInOnePlace) {
  std::mt19937 random(1);
  const auto up_to = [&](int most) { return std::uniform_int_distribution<int>(1, most)(random); };
  Model model;
  std::int64_t next[kStreams] = {};
  for (int round = 0; round < 4000; ++round) {
    const int stream = up_to(kStreams) - 1;
    if (up_to(10) == 1) next[stream] = std::max<std::int64_t>(0, next[stream] - up_to(40));  // taken back
    const int n = up_to(up_to(10) == 1 ? 400 : 6);
    if (next[stream] + n > kCells || up_to(200) == 1) next[stream] = 0;  // another text
    const std::vector<std::int64_t> batch = run(stream * kCells + next[stream], n);
    model.store(batch, static_cast<std::int32_t>(next[stream]));
    model.check(batch);
    next[stream] += n;
    if (HasFailure()) FAIL() << "round " << round;
  }
}

TEST(RecentTokens, TheLastOnesAreKept) {
  Model model;
  for (int t = 0; t < kCells; ++t) {
    model.store({t}, t);
    int n = 0;
    for (int cell = t; cell >= 0 && model.recent.slot_of(cell) != RecentTokens::kNone; --cell) ++n;
    EXPECT_GE(n, std::min(t + 1, kRecent)) << t;
    EXPECT_LE(n, kRecent + kPageTokens + (t < 256 ? RecentTokens::kFirst : 0)) << t;
  }
  for (int cell = 0; cell < RecentTokens::kFirst; ++cell) EXPECT_EQ(model.recent.slot_of(cell), cell);
}

// Two sequences in one stream: the later one has the slots of first tokens, and no token is lost.
TEST(RecentTokens, FirstTokensOfTwoSequences) {
  Model model;
  model.store(run(0, 100), 0);
  model.store(run(200, 30), 0);
  model.check(run(200, 30));
  for (int i = 0; i < RecentTokens::kFirst; ++i) EXPECT_EQ(model.recent.slot_of(i < 30 ? 200 + i : i), i);
}

// Drafts of eight tokens, of which three are accepted: pages stay regular, so that they are fast to attend.
TEST(RecentTokens, DraftsLeaveNoGaps) {
  Model model;
  model.store(run(0, 300), 0);
  for (int t = 300; t < 450; t += 3) {
    model.store(run(t, 8), t);
    model.recent.refresh_pages();
    for (const PagePositions::Page& page : model.recent.page_positions(0).pages) EXPECT_TRUE(page.regular) << t;
  }
}

// Tokens that would follow a new one were taken back, if llama.cpp did not mean another sequence: none is lost.
TEST(RecentTokens, TokensThatWouldFollowMoveOut) {
  Model model;
  model.store(run(400, 3), 1000);
  model.store(run(10, 2), 610);
  for (const std::int64_t cell : run(400, 3)) {
    EXPECT_EQ(model.recent.slot_of(cell), RecentTokens::kNone);
    EXPECT_EQ(model.cells.at(cell), model.tokens.at(cell));
  }
  model.store(run(300, 2), 500);
  model.store(run(20, 2), 100);  // another sequence
  for (const std::int64_t cell : run(300, 2)) EXPECT_NE(model.recent.slot_of(cell), RecentTokens::kNone);
}

TEST(RecentTokens, StreamsAreCopied) {
  Model model;
  model.store(run(0, 200), 0);
  model.store(run(kCells + 30, 100), 30);
  model.recent.copy_stream(0, 1);
  for (int cell = 0; cell < kCells; ++cell) {
    const std::int64_t slot = model.recent.slot_of(cell), copy = model.recent.slot_of(kCells + cell);
    if (slot == RecentTokens::kNone) {
      EXPECT_EQ(copy, RecentTokens::kNone);
      continue;
    }
    EXPECT_EQ(copy, slot + model.recent.n_slots());
    EXPECT_EQ(model.recent.position(copy), model.recent.position(slot));
  }
}

TEST(RecentTokens, Shift) {
  Model model;
  model.store(run(0, 64), 0);
  std::vector<std::int32_t> by(kStreams * kCells);
  by[63] = 10;
  model.recent.shift(by.data());
  EXPECT_EQ(model.recent.position(model.recent.slot_of(63)), 73);
  EXPECT_EQ(model.recent.position(model.recent.slot_of(62)), 62);
}

}  // namespace
}  // namespace gtq::plugin
