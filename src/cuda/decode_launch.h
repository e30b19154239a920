// A planned decode call and its start, by dims of a value head: 64, 96, 128 or 256.
#pragma once

#include "cuda/decode_params.h"
#include "gtq/cuda.h"

namespace gtq::cuda {

struct DecodeLaunch {
  DecodeParams params;
  int shared_bytes;
  Stream stream;
};

template <int VD>
void start_decode(const DecodeLaunch& launch);

extern template void start_decode<64>(const DecodeLaunch&);
extern template void start_decode<96>(const DecodeLaunch&);
extern template void start_decode<128>(const DecodeLaunch&);
extern template void start_decode<256>(const DecodeLaunch&);

}  // namespace gtq::cuda
