// The cache without GTQ_PROFILE: f16 until 512 tokens have calibrated it, packed from then on. What a process
// has calibrated serves all its contexts, so that every test needs a process of its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gtq/profile.h"
#include "llama.h"
#include "plugin/llama_harness.h"

namespace gtq::testing {
namespace {

namespace fs = std::filesystem;

constexpr int kStaged = 300, kEnough = 520;  // tokens: before and after calibration
constexpr double kOneBit = 1e-4;             // KL divergence that a saved state costs, see wide_row.h
constexpr double kPacked = 0.10;             // and the codec

class StagedTest : public CacheTest {
 protected:
  void SetUp() override {
    CacheTest::SetUp();
    fs::remove_all(folder_);
    setenv("XDG_CACHE_HOME", folder_.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(folder_); }

  bool has_profile() const { return fs::exists(folder_ / "gtq") && !fs::is_empty(folder_ / "gtq"); }
  void keep(const Profile& profile, const char* name) const {
    fs::create_directories(folder_ / "gtq");
    write_profile(profile, folder_ / "gtq" / name);
  }
  std::ptrdiff_t n_profiles() const {
    return std::distance(fs::directory_iterator(folder_ / "gtq"), fs::directory_iterator());
  }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("gtq-staged-" + std::to_string(::getpid()));
};

// One token after those of the prompt, at the same place in both.
double distance(llama_context* reference, llama_context* ctx, int at, const Place& place) {
  return divergence(decode(reference, at, at + 1, place), decode(ctx, at, at + 1, place));
}

std::vector<std::uint8_t> state_of(llama_context* ctx) {
  std::vector<std::uint8_t> state(llama_state_seq_get_size(ctx, 0));
  EXPECT_EQ(llama_state_seq_get_data(ctx, state.data(), state.size(), 0), state.size());
  return state;
}

struct RowHeader {
  std::int32_t position;
  std::uint64_t tag;
};

// Of all state rows (docs/format.md).
std::vector<RowHeader> headers_of(const std::vector<std::uint8_t>& state) {
  constexpr std::string_view kMagic = "GTQ1";
  std::vector<RowHeader> headers;
  for (auto row = state.begin();; ++row) {
    row = std::search(row, state.end(), kMagic.begin(), kMagic.end());
    if (row == state.end()) return headers;
    RowHeader header{};
    std::memcpy(&header.position, &*row + kMagic.size(), sizeof header.position);
    std::memcpy(&header.tag, &*row + kMagic.size() + sizeof header.position, sizeof header.tag);
    headers.push_back(header);
  }
}

std::int32_t last_position(const std::vector<std::uint8_t>& state) {
  std::int32_t last = -1;
  for (const RowHeader& header : headers_of(state)) last = std::max(last, header.position);
  return last;
}

// Budgets of tokens: one, or two where recent tokens have their own.
std::size_t n_tags(const std::vector<std::uint8_t>& state) {
  std::set<std::uint64_t> tags;
  for (const RowHeader& header : headers_of(state)) tags.insert(header.tag);
  return tags.size();
}

TEST_F(StagedTest, IsPackedAfterEnoughTokens) {
  const Context stock = context(false, 1, false, 1024), ours = context(true, 1, false, 1024);
  EXPECT_EQ(decode(ours.get(), 0, kStaged), decode(stock.get(), 0, kStaged));
  EXPECT_FALSE(has_profile());
  EXPECT_EQ(decode(ours.get(), kStaged, kEnough, {0, kStaged}),
            decode(stock.get(), kStaged, kEnough, {0, kStaged}));
  EXPECT_TRUE(has_profile());
  const double packed = distance(stock.get(), ours.get(), kEnough, {0, kEnough});
  EXPECT_GT(packed, 1e-6);  // otherwise nothing was packed
  EXPECT_LT(packed, kPacked);
  EXPECT_EQ(n_tags(state_of(ours.get())), keeps_recent() ? 2u : 1u);

  const Context next = context(true), reference = context(false);  // packed from its first token
  const double again = divergence(decode(reference.get(), 0, kStaged), decode(next.get(), 0, kStaged));
  EXPECT_GT(again, 1e-6);
  EXPECT_LT(again, kPacked);
}

TEST_F(StagedTest, WarmUpIsForgotten) {
  const Context ours = context(true, 1, false, 1024), stock = context(false, 1, false, 1024);
  for (int i = 0; i < kEnough; ++i) {
    decode(ours.get(), 0, 2);
    llama_memory_clear(llama_get_memory(ours.get()), true);
  }
  EXPECT_FALSE(has_profile());
  EXPECT_EQ(decode(ours.get(), 0, kStaged), decode(stock.get(), 0, kStaged));
}

TEST_F(StagedTest, ContextShift) {
  const Context stock = context(false, 1, false, 1024), ours = context(true, 1, false, 1024);
  for (llama_context* ctx : {stock.get(), ours.get()}) {
    decode(ctx, 0, kStaged);
    llama_memory_seq_rm(llama_get_memory(ctx), 0, 10, 110);
    llama_memory_seq_add(llama_get_memory(ctx), 0, 110, -1, -100);
  }
  decode(ours.get(), kStaged, kStaged + 1, {0, kStaged - 100});  // llama.cpp shifts before the next batch
  EXPECT_EQ(last_position(state_of(ours.get())), kStaged - 100);
  llama_memory_seq_rm(llama_get_memory(ours.get()), 0, kStaged - 100, -1);
  EXPECT_EQ(decode(ours.get(), kStaged, kEnough, {0, kStaged - 100}),
            decode(stock.get(), kStaged, kEnough, {0, kStaged - 100}));
  ASSERT_TRUE(has_profile());
  EXPECT_LT(distance(stock.get(), ours.get(), kEnough, {0, kEnough - 100}), kPacked);
}

TEST_F(StagedTest, SequenceCopy) {
  for (const bool unified : {false, true}) {
    const Context ours = context(true, 2, unified);
    decode(ours.get(), 0, 100);
    llama_memory_seq_cp(llama_get_memory(ours.get()), 0, 1, -1, -1);
    const Logits expected = decode(ours.get(), 100, 101, {0, 100});
    llama_memory_seq_rm(llama_get_memory(ours.get()), 0, 100, -1);
    EXPECT_EQ(decode(ours.get(), 100, 101, {1, 100}), expected);
  }
}

// Two streams, of which the other one reaches the end of calibration: the cells of both are packed.
TEST_F(StagedTest, AllSequencesArePacked) {
  const Context stock = context(false, 2, false, 1024), ours = context(true, 2, false, 1024);
  for (llama_context* ctx : {stock.get(), ours.get()}) {
    decode(ctx, 0, 100, std::vector<Place>{{0, 0}, {1, 0}});
    decode(ctx, 100, kEnough, {1, 100});
  }
  ASSERT_TRUE(has_profile());
  for (const auto& [sequence, at] : {std::pair{0, 100}, {1, kEnough}}) {
    const double packed = distance(stock.get(), ours.get(), at, {sequence, at});
    EXPECT_GT(packed, 1e-6) << sequence;
    EXPECT_LT(packed, kPacked) << sequence;
  }
}

// A state that was saved before the cache was packed fits it before and afterwards.
TEST_F(StagedTest, StateInMemory) {
  const Context ours = context(true, 2, false, 1024);
  decode(ours.get(), 0, kStaged);
  const std::vector<std::uint8_t> state = state_of(ours.get());
  const Logits expected = decode(ours.get(), kStaged, kStaged + 1, {0, kStaged});

  ASSERT_EQ(llama_state_seq_set_data(ours.get(), state.data(), state.size(), 1), state.size());
  expect_near(expected, decode(ours.get(), kStaged, kStaged + 1, {1, kStaged}), kOneBit, "staged");
  decode(ours.get(), kStaged + 1, kEnough, {0, kStaged + 1});
  ASSERT_TRUE(has_profile());
  ASSERT_EQ(llama_state_seq_set_data(ours.get(), state.data(), state.size(), 1), state.size());
  const double packed = divergence(expected, decode(ours.get(), kStaged, kStaged + 1, {1, kStaged}));
  EXPECT_GT(packed, 1e-6);
  EXPECT_LT(packed, kPacked);
}

// A batch comes in pieces, here of a layer each, when a program looks at tensors. They are computed as without
// gtq, and nothing is learned from them.
TEST_F(StagedTest, PiecesAreNotCalibratedOn) {
  const auto look = [](ggml_tensor* t, bool ask, void*) {
    return !ask || std::string_view(t->name).starts_with("l_out");
  };
  const Context pieces = context(true, 1, false, 1024, look), stock = context(false, 1, false, 1024, look);
  EXPECT_EQ(decode(pieces.get(), 0, kEnough), decode(stock.get(), 0, kEnough));
  EXPECT_FALSE(has_profile());
  EXPECT_LT(distance(stock.get(), pieces.get(), kEnough, {0, kEnough}), 1e-9);

  const Context whole = context(true, 1, false, 1024);
  decode(whole.get(), 0, kEnough);
  EXPECT_TRUE(has_profile());
}

// Profiles of this model that cannot serve its cache do not keep it from being calibrated.
TEST_F(StagedTest, UnfitProfilesArePassedOver) {
  Profile profile = read_profile(std::getenv("GTQ_TEST_PROFILE"));
  profile.layers.pop_back();
  keep(profile, "part.gtq.gguf");
  profile = read_profile(std::getenv("GTQ_TEST_PROFILE"));
  for (LayerProfile& layer : profile.layers) layer.rope.freq_base /= 2;
  keep(profile, "rotation.gtq.gguf");
  profile = read_profile(std::getenv("GTQ_TEST_PROFILE"));
  profile.fingerprint = 0;
  keep(profile, "unknown.gtq.gguf");

  const Context stock = context(false, 1, false, 1024), ours = context(true, 1, false, 1024);
  EXPECT_EQ(decode(ours.get(), 0, kEnough), decode(stock.get(), 0, kEnough));
  EXPECT_EQ(n_profiles(), 4);
  const double packed = distance(stock.get(), ours.get(), kEnough, {0, kEnough});
  EXPECT_GT(packed, 1e-6);
  EXPECT_LT(packed, kPacked);
}

TEST_F(StagedTest, OneContextCalibratesForAll) {
  const Context slow = context(true), fast = context(true, 1, false, 1024), stock = context(false);
  for (llama_context* ctx : {slow.get(), stock.get()}) decode(ctx, 0, 100);
  decode(fast.get(), 0, kEnough);
  const double packed = distance(stock.get(), slow.get(), 100, {0, 100});
  EXPECT_GT(packed, 1e-6);
  EXPECT_LT(packed, kPacked);
}

// As with --no-warmup: a state comes before the first graph, and the model is still recognised later.
TEST_F(StagedTest, StateBeforeTheFirstGraph) {
  const Context first = context(true, 1, false, 1024), second = context(true, 1, false, 1024);
  decode(first.get(), 0, kStaged);
  const std::vector<std::uint8_t> state = state_of(first.get());
  ASSERT_EQ(llama_state_seq_set_data(second.get(), state.data(), state.size(), 0), state.size());
  decode(second.get(), kStaged, kStaged + kEnough, {0, kStaged});
  ASSERT_TRUE(has_profile());
  const Context next = context(true), stock = context(false);
  EXPECT_GT(divergence(decode(stock.get(), 0, kStaged), decode(next.get(), 0, kStaged)), 1e-6);
}

TEST_F(StagedTest, PackedStateIsRefused) {
  const Context packed = context(true, 1, false, 1024);
  decode(packed.get(), 0, kEnough);
  decode(packed.get(), kEnough, kEnough + 1, {0, kEnough});
  const std::vector<std::uint8_t> state = state_of(packed.get());
  const Context staged = context(true, 1, false, 1024);
  EXPECT_DEATH(llama_state_seq_set_data(staged.get(), state.data(), state.size(), 0),
               "gtq: this saved state was written with k4v4 and .* no profile yet");
}

}  // namespace
}  // namespace gtq::testing
