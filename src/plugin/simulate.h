// The paper's recipes, end to end: rows go through quantize and dequantize before llama.cpp stores them in 16
// bits.
#pragma once

#include "ggml.h"

namespace gtq::plugin {

// Replaces the rows that this store is about to write, in place.
void simulate_rows(const ggml_tensor* store);

}  // namespace gtq::plugin
