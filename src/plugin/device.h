// The decorator device GTQ0: it claims whole graphs, runs the cache's ops itself and forwards the rest to
// ggml-cpu.
#pragma once

#include "ggml-backend-impl.h"

namespace gtq::plugin {

ggml_backend_reg_t registry();
ggml_backend_dev_t device();
ggml_backend_dev_t cpu_device();
ggml_backend_buffer_type_t cpu_buffer_type();

ggml_backend_t new_backend();
void set_backend_threads(ggml_backend_t backend, int n_threads);

}  // namespace gtq::plugin
