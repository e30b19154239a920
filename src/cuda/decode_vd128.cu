// Decode kernels for values of 128 dims.
#include "cuda/decode_launch.cuh"

namespace gtq::cuda {

template void start_decode<128>(const DecodeLaunch&);

}  // namespace gtq::cuda
