// Token rows with vectors of x86-64-v3 (AVX2); the flags, without contraction, are in targets.cmake.
#include "codec/fixed_point.h"
#include "codec/norm.h"
#include "cpu/kernel_api.h"
#include "cpu/row_encoder.h"

#if defined(__AVX2__)
#include <immintrin.h>

namespace gtq::cpu {
namespace {

constexpr int kMaxDims = 1024;
constexpr int kRun = 16;  // a quant_group, or as many dims of a value

#include "cpu/kernel_simd.inc.h"
// (order matters)
#include "cpu/encode_search.inc.h"
// (order matters)
#include "cpu/encode_key.inc.h"
#include "cpu/encode_turn.inc.h"
#include "cpu/encode_value.inc.h"

}  // namespace

const RowEncoder kAvx2Encoder = {make_turn, encode_key, encode_value};

}  // namespace gtq::cpu
#endif
