#include "cpu/dispatch.h"

#include <fmt/format.h>

#include <cstdlib>
#include <string>

#include "cpu/kernels.h"
#include "gtq/error.h"
#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace gtq::cpu {
namespace {

#if defined(__x86_64__)
// Linux gives a process tile registers on request only.
bool tiles_granted() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

std::vector<Kernel> find_supported() {
  std::vector<Kernel> kernels;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
      __builtin_cpu_supports("avx512vnni")) {
    if (tiles_granted()) {
      kernels.push_back({"amx", attend_pages_amx, finish_pair_amx, &kAvx2Encoder, multiply_amx});
    }
    kernels.push_back({"avx512", attend_pages_avx512, finish_pair_avx512, &kAvx2Encoder, multiply_avx512});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    kernels.push_back({"avx2", attend_pages_avx2, finish_pair_avx2, &kAvx2Encoder, multiply_avx2});
  }
#elif defined(__aarch64__)
  if ((getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0)
    kernels.push_back({"neon", attend_pages_neon, finish_pair_neon, &kPlainEncoder, multiply_neon});
#endif
  kernels.push_back({"generic", attend_pages_generic, finish_pair_generic, &kPlainEncoder, multiply_generic});
  return kernels;
}

}  // namespace

const std::vector<Kernel>& supported_kernels() {
  static const std::vector<Kernel> kernels = find_supported();
  return kernels;
}

const Kernel& choose_kernel(const char* forced) {
  const std::vector<Kernel>& kernels = supported_kernels();
  if (forced == nullptr || *forced == '\0') return kernels.front();
  std::string names;
  for (const Kernel& kernel : kernels) {
    if (kernel.name == forced) return kernel;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", kernel.name);
  }
  throw Error(fmt::format("GTQ_CPU={} is not a kernel this machine can run; choose one of: {}", forced, names));
}

const Kernel& active_kernel() {
  static const Kernel& kernel = choose_kernel(std::getenv("GTQ_CPU"));
  return kernel;
}

}  // namespace gtq::cpu

namespace gtq {

std::string_view attention_kernel_name() { return cpu::active_kernel().name; }

}  // namespace gtq
