// Decode kernels for values of 256 dims.
#include "cuda/decode_launch.cuh"

namespace gtq::cuda {

template void start_decode<256>(const DecodeLaunch&);

}  // namespace gtq::cuda
