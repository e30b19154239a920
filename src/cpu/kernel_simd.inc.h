// Vectors as wide as the registers of the instruction set that this translation unit is compiled for, in terms
// of the compiler's vector extension. Included inside the unnamed namespace of one kernel file; so are the
// other .inc.h files, which is why none has an include guard or includes anything.

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kVecs = kPanel / kLanes;  // vectors of a panel row

#define GTQ_VECTOR(type, n) type __attribute__((vector_size((n) * sizeof(type)), may_alias))
using vf = GTQ_VECTOR(float, kLanes);
using vi = GTQ_VECTOR(std::int32_t, kLanes);
using vu = GTQ_VECTOR(std::uint32_t, kLanes);
using vh = GTQ_VECTOR(std::uint16_t, kLanes);
using vcodes = GTQ_VECTOR(std::uint8_t, kLanes);
#undef GTQ_VECTOR
#define GTQ_INLINE static inline __attribute__((always_inline))
#define GTQ_UNROLL _Pragma("GCC unroll 16")

template <class V>
GTQ_INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}
template <class V>
GTQ_INLINE void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof(V));
}
// All lanes x. Written out: only this form is one broadcast instruction.
GTQ_INLINE vf splat(float x) {
#if defined(__AVX512F__)
  return vf{x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x};
#elif defined(__AVX__)
  return vf{x, x, x, x, x, x, x, x};
#else
  return vf{x, x, x, x};
#endif
}
GTQ_INLINE void prefetch(const void* p) { __builtin_prefetch(p, 0, 3); }  // into the first cache

// Lines of pages are fetched kPagesAhead pages before they are read. The first cache is small and fetches few
// lines at a time: where kernels are fast they go into the second one so early, and into the first one again
// kPagesSoon pages of keys or one unit of values before they are read. Zen 4 ignores fetches into the second
// cache for milliseconds at a time; then the others do what they can. Where codes are expanded for many pairs
// the first cache alone is soon enough.
#if defined(__AVX512F__)
constexpr int kPagesAhead = 8, kPagesSoon = 2;
GTQ_INLINE void prefetch_ahead(const void* p) { __builtin_prefetch(p, 0, 2); }
#else
constexpr int kPagesAhead = kTilePages, kPagesSoon = 0;  // not again
GTQ_INLINE void prefetch_ahead(const void* p) { prefetch(p); }
#endif

GTQ_INLINE vf max(vf a, vf b) {
#if defined(__AVX512F__)  // where b is a constant GCC 12 takes two instructions
  return reinterpret_cast<vf>(_mm512_max_ps(reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#else
  return a > b ? a : b;
#endif
}
GTQ_INLINE vf min(vf a, vf b) { return a < b ? a : b; }

// Lanes kHalf apart change places.
template <int kHalf>
GTQ_INLINE vf exchanged(vf v) {
  vi other;
  for (int i = 0; i < kLanes; ++i) other[i] = i ^ kHalf;
  return __builtin_shuffle(v, other);
}
template <int kHalf = kLanes / 2>
GTQ_INLINE float lane_max(vf v) {
  if constexpr (kHalf > 0) return lane_max<kHalf / 2>(max(v, exchanged<kHalf>(v)));
  return v[0];
}
template <int kHalf = kLanes / 2>
GTQ_INLINE float lane_sum(vf v) {
  if constexpr (kHalf > 0) return lane_sum<kHalf / 2>(v + exchanged<kHalf>(v));
  return v[0];
}

GTQ_INLINE bool any_lane(vi v) {
#if defined(__AVX512F__)
  return _mm512_test_epi32_mask(reinterpret_cast<__m512i>(v), reinterpret_cast<__m512i>(v)) != 0;
#elif defined(__AVX__)
  return _mm256_testz_si256(reinterpret_cast<__m256i>(v), reinterpret_cast<__m256i>(v)) == 0;
#else
  std::int32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= v[i];
  return bits != 0;
#endif
}

// kLanes bytes, one to a lane. GCC 12 takes the general form apart into single bytes.
GTQ_INLINE vu load_bytes_to_lanes(const std::uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<vu>(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<vu>(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#elif defined(__ARM_FEATURE_DOTPROD)
  const uint16x8_t wide = vmovl_u8(vcreate_u8(load<std::uint32_t>(p)));
  return reinterpret_cast<vu>(vmovl_u16(vget_low_u16(wide)));
#else
  return __builtin_convertvector(load<vcodes>(p), vu);
#endif
}

// A number that templates can take from the argument of a lambda.
template <int kN>
struct Constant {
  static constexpr int value = kN;
};

template <int kMost, class F>
GTQ_INLINE void with_constant(int n, F f) {
  if constexpr (kMost > 1) {
    if (n < kMost) return with_constant<kMost - 1>(n, f);
  }
  f(Constant<kMost>());
}

// f(Constant<width>).
template <class F>
GTQ_INLINE void with_width(int width, F f) {
  switch (width) {
    case 1:
      return f(Constant<1>());
    case 2:
      return f(Constant<2>());
    case 3:
      return f(Constant<3>());
    case 4:
      return f(Constant<4>());
    case 5:
      return f(Constant<5>());
    default:
      return f(Constant<6>());
  }
}

// f(Constant<size>, first) for 0 .. n in blocks of nearly equal size, at most kMost.
template <int kMost, class F>
GTQ_INLINE void for_blocks(int n, F f) {
  if (n == 0) return;
  const int n_blocks = (n + kMost - 1) / kMost;
  const int least = n / n_blocks, extra = n % n_blocks;
  for (int b = 0, first = 0; b < n_blocks; ++b) {
    const int size = least + (b < extra ? 1 : 0);
    with_constant<kMost>(size, [&](auto block_size) { f(block_size, first); });
    first += size;
  }
}

// e^x for -87 <= x <= 88, e^-87 below, as 2^n 2^r with n whole and |r| <= 1/2: 2^r by the polynomial of degree
// 5 through it at the Chebyshev nodes, 2^n added to its exponent. Relative error below 4e-7 near 0; far from it
// the rounding of x log2(e) adds 1e-7 |x| at most.
GTQ_INLINE vf exp_floored(vf x) {
  x = max(x, splat(-87.0f));
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  constexpr float kLog2E = 1.44269504f;
  const vf shifted = x * kLog2E + kRound;
  const vf r = x * kLog2E - (shifted - kRound);
  vf p = splat(0.00133908633f);
  p = p * r + 0.00967603177f;
  p = p * r + 0.0555035696f;
  p = p * r + 0.240221068f;
  p = p * r + 0.693147182f;
  p = p * r + 1.0f;
  return reinterpret_cast<vf>(reinterpret_cast<vu>(p) + (reinterpret_cast<vu>(shifted) << 23));
}
// e^x for x <= 0, 0 where it is below 1e-37.
GTQ_INLINE vf exp_nonpositive(vf x) { return x < -86.0f ? vf{} : exp_floored(x); }
GTQ_INLINE vf tanh_of(vf x) { return 1.0f - 2.0f / (exp_floored(min(2.0f * x, splat(87.0f))) + 1.0f); }

// cos and sin of a full turn times f, f in [-0.5, 0.5], absolute error below 3e-7: Taylor series of half the
// angle, then doubled.
GTQ_INLINE void cos_sin_turns(vf f, vf* cos_out, vf* sin_out) {
  const vf y = f * 3.14159265f;
  const vf z = y * y;
  vf s = splat(1.0f / 6227020800.0f);
  s = s * z - 1.0f / 39916800;
  s = s * z + 1.0f / 362880;
  s = s * z - 1.0f / 5040;
  s = s * z + 1.0f / 120;
  s = s * z - 1.0f / 6;
  s = y + y * z * s;
  vf c = splat(-1.0f / 87178291200.0f);
  c = c * z + 1.0f / 479001600;
  c = c * z - 1.0f / 3628800;
  c = c * z + 1.0f / 40320;
  c = c * z - 1.0f / 720;
  c = c * z + 1.0f / 24;
  c = c * z - 0.5f;
  c = c * z + 1.0f;
  *sin_out = 2.0f * s * c;
  *cos_out = 1.0f - 2.0f * s * s;
}

// turns * position reduced to [-0.5, 0.5] in double.
GTQ_INLINE float reduced_turns(double turns, double position) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  const double t = turns * position;
  return static_cast<float>(t - ((t + kRound) - kRound));
}

GTQ_INLINE vf half_to_float(vh half) {
  const vu h = __builtin_convertvector(half, vu);
  const vf magnitude = reinterpret_cast<vf>((h & 0x7fffu) << 13) * 5.192296858534828e33f;  // 2^112
  const vu finite = reinterpret_cast<vu>(magnitude);
  const vu bits = (h & 0x7c00u) == 0x7c00u ? vu{} + 0x7f800000u : finite;
  return reinterpret_cast<vf>(bits | (h & 0x8000u) << 16);
}
