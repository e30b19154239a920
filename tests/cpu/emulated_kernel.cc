// The source of the AVX-512 kernel compiled for the baseline, with emulated instructions.
#include "cpu/emulated_kernel.h"

#if defined(__x86_64__)
#include "cpu/emulated_avx512.h"
#define __AVX512F__ 1
#define GTQ_KEEP_ORDER(a, b)

#define GTQ_DOT "cpu/dot_avx512.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

void attend_pages(const PageJob& job) { attend_tiles(job); }

}  // namespace
}  // namespace gtq::cpu

namespace gtq::test {

std::vector<cpu::Kernel> emulated_kernels() {
  return {{.name = "avx512 emulated", .attend_pages = cpu::attend_pages}};
}

}  // namespace gtq::test
#else
namespace gtq::test {

std::vector<cpu::Kernel> emulated_kernels() { return {}; }

}  // namespace gtq::test
#endif
