// Sums for calibration, and the identity of a model, from what passes through the graph.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml-backend-impl.h"
#include "ggml.h"
#include "plugin/recorder_api.h"

namespace gtq::plugin {

// Call after the node was computed: adds its rows to the sums, and shows them to the listener.
void record_node(const ggml_tensor* node);

// Hash of the small (one-dimensional, F32) weights of the graph: the same for every quantization of a model.
std::uint64_t graph_fingerprint(ggml_tensor** nodes, int n_nodes);
void record_fingerprint(std::uint64_t fingerprint);

void recorder_listen(RecorderListener listener, void* user);
std::int64_t recorder_tokens();
bool recorder_finish(const char* path, const char* model_name, const char* text_source, char* error,
                     std::size_t error_size);

}  // namespace gtq::plugin
