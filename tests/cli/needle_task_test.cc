#include "needle_task.h"

#include <gtest/gtest.h>

#include <set>

#include "gtq/error.h"

namespace gtq::cli {
namespace {

const std::string kHaystack = "It rained. The river rose a little. Nobody minded. The café stayed open late.";

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

TEST(NeedleTask, HoldsEveryAnswerOnceAndTheSameSeedGivesTheSameTask) {
  const std::size_t n_answers[] = {1, 1, 3, 1, 4, 4};
  const std::size_t n_facts[] = {1, 6, 3, 31, 4, 4};
  for (int kind = 0; kind < 6; ++kind) {
    for (unsigned seed = 0; seed < 50; ++seed) {
      const auto make = [&] {
        return make_needle_task(static_cast<NeedleKind>(kind), kHaystack, 4000, 0.3, seed);
      };
      const NeedleTask task = make();
      EXPECT_EQ(task.prompt, make().prompt);
      ASSERT_EQ(task.answers.size(), n_answers[kind]);
      for (const std::string& answer : task.answers) EXPECT_EQ(count(task.prompt, answer), 1u);
      // A question for one number names it the same way.
      EXPECT_EQ(count(task.prompt, " number for "), n_facts[kind] + (n_answers[kind] == 1 ? 1 : 0));
      EXPECT_GT(task.prompt.size(), 4000u);
      EXPECT_EQ(needle_score(task, task.prompt), 1.0);
      EXPECT_EQ(needle_score(task, "no idea"), 0.0);
    }
  }
}

TEST(NeedleTask, FactStandsAtItsDepth) {
  for (const double depth : {0.0, 0.25, 0.5, 1.0}) {
    const NeedleTask task = make_needle_task(NeedleKind::kSingle, kHaystack, 8000, depth, 1);
    EXPECT_NEAR(static_cast<double>(task.prompt.find(task.answers[0])), depth * 8000, 150) << depth;
  }
}

TEST(NeedleTask, ScoreCountsPartsAndNamesAreChecked) {
  NeedleTask task;
  task.answers = {"1234567", "7654321"};
  EXPECT_EQ(needle_score(task, "They are 7654321 and 1."), 0.5);
  EXPECT_EQ(parse_needle_kind("multiquery"), NeedleKind::kMultiquery);
  EXPECT_THROW(parse_needle_kind("haystack"), Error);
}

}  // namespace
}  // namespace gtq::cli
