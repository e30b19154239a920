#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "gtq/attention.h"

namespace gtq {
namespace {

TEST(SpinBarrier, PublishesWritesAndIsReusable) {
  constexpr int kThreads = 7, kRounds = 200;  // more threads than most test machines have cores
  SpinBarrier barrier;
  std::vector<int> value(kThreads, 0);
  std::vector<int> wrong(kThreads, 0);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int round = 1; round <= kRounds; ++round) {
        value[t] = round;
        barrier.wait(kThreads);
        for (int other = 0; other < kThreads; ++other) wrong[t] += value[other] != round;
        barrier.wait(kThreads);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(kThreads, 0));
}

}  // namespace
}  // namespace gtq
