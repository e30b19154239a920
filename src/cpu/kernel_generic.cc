// Page kernel for the baseline of the architecture.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#define GTQ_DOT "cpu/dot_plain.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace

void attend_pages_generic(const PageJob& job) { attend_tiles(job); }
void finish_pair_generic(const OutputJob& job) { finish_pair(job); }
std::int64_t multiply_generic(std::int64_t n, int) { return multiply(n); }

}  // namespace gtq::cpu
