// Decode kernels for values of 64 dims.
#include "cuda/decode_launch.cuh"

namespace gtq::cuda {

template void start_decode<64>(const DecodeLaunch&);

}  // namespace gtq::cuda
