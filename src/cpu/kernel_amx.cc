// Page kernel for x86-64 with AMX (Sapphire Rapids and later): the AVX-512 kernel, with many pairs multiplied
// by tiles.
#include "cpu/kernel_api.h"
#include "cpu/kernels.h"

#if defined(__AMX_INT8__)
#include <immintrin.h>

#define GTQ_DOT "cpu/dot_avx512.inc.h"
#define GTQ_MANY "cpu/kernel_tiles.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace

void attend_pages_amx(const PageJob& job) { attend_tiles(job); }
void finish_pair_amx(const OutputJob& job) { finish_pair(job); }
std::int64_t multiply_amx(std::int64_t n, int n_pairs) {
  return n_pairs > kBlockPairs ? multiply_by_tiles(n) : multiply(n);
}

}  // namespace gtq::cpu
#endif
