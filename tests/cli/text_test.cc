#include "text.h"

#include <gtest/gtest.h>

#include <numeric>

namespace gtq::cli {
namespace {

std::vector<llama_token> count_up(int n) {
  std::vector<llama_token> tokens(static_cast<std::size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

std::size_t total(const std::vector<std::vector<llama_token>>& chunks) {
  std::size_t n = 0;
  for (const auto& chunk : chunks) n += chunk.size();
  return n;
}

TEST(Utf8, AcceptsWhatIsValid) {
  for (const char* text :
       {"", "plain", "\xc3\xa9", "\xe4\xb8\xad", "\xf0\x9f\x8c\x8a", "\xef\xbf\xbd", "\x7f"}) {
    EXPECT_EQ(valid_utf8_prefix(text), std::string_view(text).size());
  }
}

TEST(Utf8, FindsTheFirstBadByte) {
  // Stray continuation, overlong, surrogate, past U+10FFFF, cut, lead without continuation.
  for (const char* bad : {"\x80", "\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xed\xa0\x80",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe4\xb8", "\xc3", "\xc3("}) {
    EXPECT_EQ(valid_utf8_prefix(std::string("ok") + bad), 2u) << bad;
  }
}

TEST(Chunks, UsesEveryTokenOnceWhenTheyAreFew) {
  for (int n : {64, 255, 256, 257, 1000}) {
    const auto tokens = count_up(n);
    const auto chunks = make_chunks(tokens, LLAMA_TOKEN_NULL, 256, 2048);
    std::vector<llama_token> joined;
    for (const auto& chunk : chunks) joined.insert(joined.end(), chunk.begin(), chunk.end());
    EXPECT_EQ(joined, tokens);
  }
}

TEST(Chunks, BeginWithBosAndCountIt) {
  const auto chunks = make_chunks(count_up(1000), 7777, 256, 2048);
  EXPECT_EQ(total(chunks), 1004u);
  llama_token next = 0;
  for (const auto& chunk : chunks) {
    EXPECT_EQ(chunk.front(), 7777);
    EXPECT_LE(chunk.size(), 256u);
    for (std::size_t i = 1; i < chunk.size(); ++i) EXPECT_EQ(chunk[i], next++);
  }
  EXPECT_EQ(next, 1000);
}

TEST(Chunks, SampleALongTextFromEndToEnd) {
  for (llama_token bos : {LLAMA_TOKEN_NULL, 7777}) {
    for (std::size_t n : {64u, 256u, 257u, 300u, 2048u}) {
      const auto chunks = make_chunks(count_up(10000), bos, 256, n);
      EXPECT_EQ(total(chunks), n);
      if (chunks.size() < 2 || chunks.back().size() < 2) continue;
      EXPECT_EQ(chunks.back().back(), 9999);
      for (std::size_t c = 1; c < chunks.size(); ++c) {
        if (chunks[c].size() > 1) {
          EXPECT_GT(chunks[c][1], chunks[c - 1].back());
        }
      }
    }
  }
}

TEST(Chunks, NoTokensGiveNoChunks) { EXPECT_TRUE(make_chunks({}, 7777, 256, 2048).empty()); }

}  // namespace
}  // namespace gtq::cli
