// Host side of gtq::cuda::Layer, and error checks of CUDA calls.
#pragma once

#include <cuda_runtime.h>

#include "cuda/tables.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

// Throws gtq::Error that names what was tried.
void check(cudaError_t status, const char* action);
void check_launch(const char* kernel);

struct Layer::Impl {
  ~Impl();

  void* memory = nullptr;
  LayerView view{};
  Luts luts{};
  int n_sms = 0;
  int max_shared_bytes = 0;    // of a thread block
  int compute_capability = 0;  // 90: 9.0
};

// Throws gtq::Error where query heads cannot be dealt out to the layer's KV heads.
void check_heads(const Layer::Impl& layer, int n_q_heads);

}  // namespace gtq::cuda
