// Page kernel for x86-64-v3 (AVX2, FMA); the flags are in targets.cmake.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace gtq::cpu {
namespace {

#include "cpu/kernel_simd.inc.h"
// (order matters)
#include "cpu/kernel_expand.inc.h"
#include "cpu/kernel_gemm.inc.h"
#include "cpu/kernel_mean.inc.h"
#include "cpu/kernel_page.inc.h"
// (order matters)
#include "cpu/dot_avx2.inc.h"
#include "cpu/kernel_mean_logit.inc.h"
// (order matters)
#include "cpu/kernel_decode.inc.h"
#include "cpu/kernel_multiply.inc.h"

}  // namespace

void attend_pages_avx2(const PageJob& job) { job.expanded ? attend_single_pages(job) : attend_tiles(job); }
std::int64_t multiply_avx2(std::int64_t n, bool expanded) { return multiply(n, expanded); }

}  // namespace gtq::cpu
#endif
