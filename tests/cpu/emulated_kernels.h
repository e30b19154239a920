// Kernels whose instruction set this machine need not have.
#pragma once

#include <vector>

#include "cpu/dispatch.h"

namespace gtq::test {

#if defined(__x86_64__)
void attend_pages_avx512(const cpu::PageJob& job);
void attend_pages_amx(const cpu::PageJob& job);
void finish_pair_avx512(const cpu::OutputJob& job);
void finish_pair_amx(const cpu::OutputJob& job);

inline std::vector<cpu::Kernel> emulated_kernels() {
  return {{.name = "avx512 emulated", .attend_pages = attend_pages_avx512, .finish_pair = finish_pair_avx512},
          {.name = "amx emulated", .attend_pages = attend_pages_amx, .finish_pair = finish_pair_amx}};
}
#else
inline std::vector<cpu::Kernel> emulated_kernels() { return {}; }
#endif

}  // namespace gtq::test
