// Which page kernel runs.
#pragma once

#include <string_view>
#include <vector>

#include "cpu/kernel_api.h"
#include "cpu/row_encoder.h"
#include "gtq/attention.h"

namespace gtq::cpu {

struct Kernel {
  std::string_view name;
  PageKernel attend_pages;
  OutputKernel finish_pair;
  const RowEncoder* encoder = &kPlainEncoder;
  MultiplyLoop multiply = nullptr;
};

// Those that this machine can run, fastest first.
const std::vector<Kernel>& supported_kernels();
// The fastest one, or the one named by `forced` unless that is null or empty. Throws Error for a name that is
// unknown or not supported here.
const Kernel& choose_kernel(const char* forced);
// choose_kernel(GTQ_CPU), read once.
const Kernel& active_kernel();

// attention() of gtq/attention.h with that kernel.
void attention_with(const Kernel& kernel, const AttentionCall& call, void* workspace, SpinBarrier& barrier,
                    int thread, int n_threads);

}  // namespace gtq::cpu
