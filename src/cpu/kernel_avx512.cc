// Page kernel for x86-64-v4 with VBMI and VNNI (Ice Lake, Zen 4 and later); the flags are in targets.cmake.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__AVX512F__)
#include <immintrin.h>

#define GTQ_KEEP_ORDER(a, b) asm volatile("" : "+v"(a), "+v"(b))

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
#include "cpu/kernel_multiply.inc.h"

}  // namespace

void attend_pages_avx512(const PageJob& job) { job.expanded ? attend_single_pages(job) : attend_tiles(job); }
std::int64_t multiply_avx512(std::int64_t n, bool expanded) { return multiply(n, expanded); }

}  // namespace gtq::cpu
#endif
