// A page kernel for the instruction set that the including file is compiled for. That file defines GTQ_DOT, the
// dot_*.inc.h to multiply with, and calls attend_tiles. The order of the parts matters.

// clang-format off
#include "cpu/kernel_simd.inc.h"
#include GTQ_DOT
#include "cpu/kernel_page.inc.h"
#include "cpu/kernel_sums.inc.h"
#include "cpu/kernel_few.inc.h"
#include "cpu/kernel_many.inc.h"
#include "cpu/kernel_gemm.inc.h"
#include "cpu/kernel_mean.inc.h"
#include "cpu/kernel_attend.inc.h"
#include "cpu/kernel_multiply.inc.h"
// clang-format on
