// The source of the AVX-512 kernel compiled for the baseline, with emulated instructions.
#include "cpu/emulated_kernel.h"

#if defined(__x86_64__)
#include "cpu/emulated_avx512.h"
#define __AVX512F__ 1
#define GTQ_KEEP_ORDER(a, b)

namespace gtq::cpu {
namespace {

#include "cpu/kernel_simd.inc.h"
// (order matters)
#include "cpu/kernel_expand.inc.h"
#include "cpu/kernel_gemm.inc.h"
#include "cpu/kernel_mean.inc.h"
#include "cpu/kernel_page.inc.h"
// (order matters)
#include "cpu/dot_avx512.inc.h"
#include "cpu/kernel_mean_logit.inc.h"
// (order matters)
#include "cpu/kernel_decode.inc.h"

void attend_pages(const PageJob& job) { job.expanded ? attend_single_pages(job) : attend_tiles(job); }

}  // namespace
}  // namespace gtq::cpu

namespace gtq::test {

std::vector<cpu::Kernel> emulated_kernels() {
  return {{.name = "avx512 emulated", .attend_pages = cpu::attend_pages, .integers_for_all = true}};
}

}  // namespace gtq::test
#else
namespace gtq::test {

std::vector<cpu::Kernel> emulated_kernels() { return {}; }

}  // namespace gtq::test
#endif
