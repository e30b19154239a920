// The source of the AMX kernel compiled for the baseline, with emulated instructions.
#include "cpu/emulated_kernels.h"
#include "cpu/kernel_api.h"

#if defined(__x86_64__)
#include "cpu/emulated_instructions.h"
#define __AVX512F__ 1
#define GTQ_KEEP_ORDER(a, b)

#define GTQ_DOT "cpu/dot_avx512.inc.h"
#define GTQ_MANY "cpu/kernel_tiles.inc.h"

namespace gtq::cpu {
namespace {

#include "cpu/kernel.inc.h"

}  // namespace
}  // namespace gtq::cpu

namespace gtq::test {

void attend_pages_amx(const cpu::PageJob& job) { cpu::attend_tiles(job); }
void finish_pair_amx(const cpu::OutputJob& job) { cpu::finish_pair(job); }

}  // namespace gtq::test
#endif
