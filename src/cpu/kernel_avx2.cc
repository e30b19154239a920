// Page kernel for x86-64-v3 (AVX2, FMA); the flags are in targets.cmake.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>

#define GTQ_DOT "cpu/dot_avx2.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace

void attend_pages_avx2(const PageJob& job) { attend_tiles(job); }
void finish_pair_avx2(const OutputJob& job) { finish_pair(job); }
std::int64_t multiply_avx2(std::int64_t n, int) { return multiply(n); }

}  // namespace gtq::cpu
#endif
