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

}  // namespace

void attend_pages_generic(const PageJob& job) { attend_pages(job); }

}  // namespace gtq::cpu
