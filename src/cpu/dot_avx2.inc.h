// Integer dot products on AVX2: the interface that kernel_few.inc.h and kernel_many.inc.h are written against.
//
//   output of a unit (page_layout.h), 16 lanes of four codes   lane:  [c0 c1 c2 c3]
//   level + 128 of each code by a byte permutation             lane:  [u0 u1 u2 u3]
//   even and odd bytes as 16-bit numbers                       lane:  [u0 u2] [u1 u3]
//   Quad: four neighbours of the query as 16-bit numbers              [q0 q2] [q1 q3]
//   two multiply-adds of pairs, summed in 32 bits              lane:  u0 q0 + u1 q1 + u2 q2 + u3 q3
//
// Sums start at -128 * sum(q), which takes the 128 back. They are exact modulo 2^32, and the caller scales the
// query so that the final sum fits.

constexpr int kBlockPairs = 4;                    // pairs whose sums stay in registers
constexpr int kLevelPairs = 4, kLevelBlocks = 1;  // the same beside expanded levels, with 16 results a block
template <int N>
constexpr int kSumSets = 1;  // additions have a latency of one cycle: no second set of sums is needed
// Blocks of 16 keys whose sums stay in registers with them.
template <int N>
constexpr int kKeyBlocks = N == 1 ? 2 : 1;

// Lanes 0 .. 7 and 8 .. 15. No arrays: GCC keeps arrays in memory until it has unrolled the loops over them.
struct Sums {
  __m256i low, high;
};
struct Levels {
  __m256i even_low, odd_low, even_high, odd_high;
};
struct Bias {
  std::int32_t sum;  // of the quantized numbers
};

GTQ_INLINE __m256i load_bytes(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
GTQ_INLINE __m256i bytes(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
GTQ_INLINE __m256i masked(__m256i x, int mask) { return _mm256_and_si256(x, bytes(mask)); }
template <int N>
GTQ_INLINE __m256i right(__m256i x) {
  return N == 0 ? x : _mm256_srli_epi16(x, N);
}
template <int N>
GTQ_INLINE __m256i left(__m256i x) {
  return N == 0 ? x : _mm256_slli_epi16(x, N);
}

// Codes as an index of 16 entries; bit 7 of bit4 and bit5 are those bits of the code.
struct Index {
  __m256i low, bit4 = low, bit5 = low;
};

// `at` points at 32 bytes of word 0.
template <int W, int O>
GTQ_INLINE Index index_of(const std::uint8_t* at) {
  const auto word = [at](int w) { return load_bytes(at + kWordStride * w); };
  if constexpr (W == 1 || W == 2 || W == 4) {
    constexpr int kPerByte = 8 / W;
    return {masked(right<W*(O % kPerByte)>(word(O / kPerByte)), 15)};
  } else if constexpr (W == 3) {
    if constexpr (O < 6) return {masked(right<3 * (O % 2)>(word(O / 2)), 15)};
    const __m256i low = masked(right<6>(word(O % 2)), 3);
    return {_mm256_or_si256(low, masked(right<4 + O % 2>(word(2)), 4))};
  } else if constexpr (W == 5) {
    if constexpr (O < 5) return {masked(word(O), 15), left<3>(word(O))};
    const __m256i low = masked(right<5>(word(O - 5)), 7);
    if constexpr (O < 7) {
      return {_mm256_or_si256(low, masked(right<2>(word(O - 2)), 8)), left<1>(word(O - 2))};
    }
    return {_mm256_or_si256(low, masked(right<4>(word(3)), 8)), word(4)};
  } else {
    if constexpr (O < 6) return {masked(word(O), 15), left<3>(word(O)), left<2>(word(O))};
    constexpr int kFirst = 3 * (O % 2);
    const __m256i low = masked(right<6>(word(kFirst)), 3);
    const __m256i high = word(kFirst + 2);
    return {_mm256_or_si256(low, masked(right<4>(word(kFirst + 1)), 12)), left<1>(high), high};
  }
}

GTQ_INLINE __m256i sixteen_levels(const CodeTable& from, int first) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(from.biased[0] + first)));
}

// Codebooks of 32 and 64 entries in 2 and 4 tables.
template <int W>
struct LevelTable {
  __m256i a, b, c, d;

  explicit LevelTable(const CodeTable& from)
      : a(sixteen_levels(from, 0)),
        b(sixteen_levels(from, 16)),
        c(sixteen_levels(from, 32)),
        d(sixteen_levels(from, 48)) {}
};

template <int W>
GTQ_INLINE __m256i look_up(const LevelTable<W>& table, const Index& index) {
  const auto found = [&](__m256i part) { return _mm256_shuffle_epi8(part, index.low); };
  if constexpr (W <= 4) return found(table.a);
  const __m256i low = _mm256_blendv_epi8(found(table.a), found(table.b), index.bit4);
  if constexpr (W <= 5) return low;
  return _mm256_blendv_epi8(low, _mm256_blendv_epi8(found(table.c), found(table.d), index.bit4), index.bit5);
}

template <int W, int O>
GTQ_INLINE Levels unpack(const LevelTable<W>& table, const std::uint8_t* unit) {
  const __m256i even = _mm256_set1_epi16(255);
  const __m256i low = look_up<W>(table, index_of<W, O>(unit));
  const __m256i high = look_up<W>(table, index_of<W, O>(unit + 32));
  return {_mm256_and_si256(low, even), _mm256_srli_epi16(low, 8), _mm256_and_si256(high, even),
          _mm256_srli_epi16(high, 8)};
}

GTQ_INLINE Sums start_sums(const Bias& bias) {
  const __m256i start = _mm256_set1_epi32(-128 * bias.sum);
  return {start, start};
}

// A quad in all lanes.
struct Factors {
  __m256i even, odd;
};

GTQ_INLINE Factors everywhere(const Quad* quad) {
  const auto pair = [quad](int i) {
    return _mm256_broadcastd_epi32(_mm_loadu_si32(reinterpret_cast<const char*>(quad) + 4 * i));
  };
  return {pair(0), pair(1)};
}

GTQ_INLINE void add_dots(Sums& sums, const Levels& levels, const Factors& factors) {
  __m256i low = _mm256_add_epi32(sums.low, _mm256_madd_epi16(levels.even_low, factors.even));
  __m256i high = _mm256_add_epi32(sums.high, _mm256_madd_epi16(levels.even_high, factors.even));
  low = _mm256_add_epi32(low, _mm256_madd_epi16(levels.odd_low, factors.odd));
  high = _mm256_add_epi32(high, _mm256_madd_epi16(levels.odd_high, factors.odd));
  // Keeps the order of sums: compilers like to do all multiplications first, and run out of registers.
  asm volatile("" : "+x"(low), "+x"(high));
  sums = {low, high};
}

GTQ_INLINE void add_sums(Sums& to, const Sums& sums) {
  to = {_mm256_add_epi32(to.low, sums.low), _mm256_add_epi32(to.high, sums.high)};
}

// Vector i of kVecs.
GTQ_INLINE vf sums_as_floats(const Sums& sums, int i) {
  return reinterpret_cast<vf>(_mm256_cvtepi32_ps(i == 0 ? sums.low : sums.high));
}

// round(scale * x) of n numbers, n a multiple of 16, every |scale * x| at most kMaxQuantized. Quad i goes to
// quads[i * stride].
GTQ_INLINE Bias pack_quads(const float* x, int n, float scale, Quad* quads, std::size_t stride) {
  const __m256 gain = _mm256_set1_ps(scale);
  __m256i sum = _mm256_setzero_si256();
  for (int i = 0; i < n; i += 16) {
    const __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), gain));
    const __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), gain));
    sum = _mm256_add_epi32(sum, _mm256_add_epi32(a, b));
    // 64-bit parts: quads 0, 2 of the first vector's halves interleaved with the second's.
    __m256i packed = _mm256_packs_epi32(a, b);
    packed = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(packed, 0xd8), 0xd8);
    alignas(32) Quad four[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(four), packed);
    Quad* to = quads + i / 4 * stride;
    to[0] = four[0];
    to[stride] = four[2];
    to[2 * stride] = four[1];
    to[3 * stride] = four[3];
  }
  alignas(32) std::int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum);
  Bias bias{0};
  for (const std::int32_t lane : lanes) bias.sum += lane;
  return bias;
}
