// Positions of the cells of a cache, kept from graph to graph.
#pragma once

#include "ggml.h"

namespace gtq::plugin {

// Finds the places of all tokens that the stores of this graph will bring, and which pages its attention may
// take for regular. Inputs are readable before the graph runs.
void note_positions(ggml_tensor** nodes, int n_nodes);

// After the graph: the positions of keys that it has shifted, in all layers.
void finish_shift(ggml_tensor** nodes, int n_nodes);

}  // namespace gtq::plugin
