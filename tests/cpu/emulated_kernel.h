// Kernels whose instruction set this machine need not have.
#pragma once

#include <vector>

#include "cpu/dispatch.h"

namespace gtq::test {

std::vector<cpu::Kernel> emulated_kernels();

}  // namespace gtq::test
