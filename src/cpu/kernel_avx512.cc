// Page kernel for x86-64-v4 with VBMI and VNNI (Ice Lake, Zen 4 and later); the flags are in targets.cmake.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__AVX512F__)
#include <immintrin.h>

#define GTQ_DOT "cpu/dot_avx512.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace

void attend_pages_avx512(const PageJob& job) { attend_tiles(job); }
void finish_pair_avx512(const OutputJob& job) { finish_pair(job); }
std::int64_t multiply_avx512(std::int64_t n, int) { return multiply(n); }

}  // namespace gtq::cpu
#endif
