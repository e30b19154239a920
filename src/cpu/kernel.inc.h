// A page kernel for the instruction set that the including file is compiled for. That file defines GTQ_DOT, the
// dot_*.inc.h to multiply with, and GTQ_MANY if many pairs are multiplied in a way of their own, and calls
// attend_tiles. The order of the parts matters.
#if !defined(GTQ_MANY)
#define GTQ_MANY "cpu/kernel_many.inc.h"
#endif

// clang-format off
#include "cpu/kernel_simd.inc.h"
#include GTQ_DOT
#include "cpu/kernel_page.inc.h"
#include "cpu/kernel_sums.inc.h"
#include "cpu/kernel_few.inc.h"
#include "cpu/kernel_expand.inc.h"
#include GTQ_MANY
#include "cpu/kernel_pairs.inc.h"
#include "cpu/kernel_gemm.inc.h"
#include "cpu/kernel_mean.inc.h"
#include "cpu/kernel_attend.inc.h"
#include "cpu/kernel_multiply.inc.h"
// clang-format on
