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
  int max_shared_bytes = 0;  // of a thread block
};

}  // namespace gtq::cuda
