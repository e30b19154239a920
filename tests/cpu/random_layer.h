// The random layers, caches and calls of the benchmarks, and a call run to its end.
#pragma once

#include <thread>
#include <vector>

#include "bench/random_cache.h"
#include "cpu/dispatch.h"

namespace gtq::test {

using namespace bench;

inline void run_attention(const cpu::Kernel& kernel, const AttentionCall& call, int n_threads) {
  Workspace workspace(attention_workspace_bytes(call, n_threads));
  SpinBarrier barrier;
  std::vector<std::thread> threads;
  for (int t = 1; t < n_threads; ++t) {
    threads.emplace_back(
        [&, t] { cpu::attention_with(kernel, call, workspace.data(), barrier, t, n_threads); });
  }
  cpu::attention_with(kernel, call, workspace.data(), barrier, 0, n_threads);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace gtq::test
