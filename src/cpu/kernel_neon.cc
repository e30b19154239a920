// Page kernel for aarch64 with dot products (Armv8.2 and later); the flags are in targets.cmake.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

#define GTQ_DOT "cpu/dot_neon.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace

void attend_pages_neon(const PageJob& job) { attend_tiles(job); }
void finish_pair_neon(const OutputJob& job) { finish_pair(job); }
std::int64_t multiply_neon(std::int64_t n, int) { return multiply(n); }

}  // namespace gtq::cpu
#endif
