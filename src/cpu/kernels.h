// Page kernels by name; dispatch.cc chooses among those that were compiled and that the machine can run.
#pragma once

#include "cpu/kernel_api.h"

namespace gtq::cpu {

void attend_pages_generic(const PageJob& job);
void attend_pages_avx2(const PageJob& job);
void attend_pages_avx512(const PageJob& job);
void attend_pages_neon(const PageJob& job);

}  // namespace gtq::cpu
