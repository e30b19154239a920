// Decode kernels for values of 96 dims.
#include "cuda/decode_launch.cuh"

namespace gtq::cuda {

template void start_decode<96>(const DecodeLaunch&);

}  // namespace gtq::cuda
