// Page kernel for the baseline of the architecture.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel_simd.inc.h"
// (order matters)
#include "cpu/kernel_expand.inc.h"
#include "cpu/kernel_gemm.inc.h"
#include "cpu/kernel_mean.inc.h"
#include "cpu/kernel_page.inc.h"
// (order matters)
#include "cpu/dot_plain.inc.h"
#include "cpu/kernel_mean_logit.inc.h"
// (order matters)
#include "cpu/kernel_decode.inc.h"
#include "cpu/kernel_multiply.inc.h"

}  // namespace

void attend_pages_generic(const PageJob& job) { job.expanded ? attend_single_pages(job) : attend_tiles(job); }
std::int64_t multiply_generic(std::int64_t n, bool expanded) { return multiply(n, expanded); }

}  // namespace gtq::cpu
