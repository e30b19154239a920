// Integer dot products on AVX-512 with VBMI and VNNI: the interface that kernel_few.inc.h and
// kernel_many.inc.h are written against.
//
//   output of a unit (page_layout.h), 16 lanes of four codes     lane:  [c0 c1 c2 c3]
//   level + 128 of each code by a permutation of 64 bytes        lane:  [u0 u1 u2 u3]
//   Quad: four neighbours of the query, 256 h + l, signed bytes         [h0 h1 h2 h3] [l0 l1 l2 l3]
//   two dot products of four bytes, summed in 32 bits            lane:  sum u_i h_i,  sum u_i l_i
//
// The permutation ignores the two top bits of an index and the table repeats the codebook, so that garbage
// beside a code does no harm. Sums start at -128 * sum(h) and -128 * sum(l), which takes the 128 back. They are
// exact modulo 2^32, and the caller scales the query so that the final sum fits.

constexpr int kBlockPairs = 8;                    // pairs whose sums stay in registers
constexpr int kLevelPairs = 6, kLevelBlocks = 2;  // the same beside expanded levels, with 16 results a block
// A dot product takes 4 or 5 cycles: few pairs need more sums than their own to keep the unit busy.
template <int N>
constexpr int kSumSets = N == 1   ? 4
                         : N == 2 ? 2
                                  : 1;
// Blocks of 16 keys whose sums stay in registers with them.
template <int N>
constexpr int kKeyBlocks = N <= 4 ? 2 : 1;

struct Sums {
  __m512i high, low;
};
struct Levels {
  __m512i bytes;
};
struct Bias {
  std::int32_t high, low;
};

// Narrow codes stand at several places of an index; with a table for each of them they need no shift.
template <int W>
constexpr int kTables = W == 1 || W == 3 ? 4
                        : W == 2         ? 2
                                         : 1;

template <int W>
struct LevelTable {
  __m512i entries[kTables<W>];

  explicit LevelTable(const CodeTable& from) {
    GTQ_UNROLL
    for (int table = 0; table < kTables<W>; ++table) entries[table] = _mm512_load_si512(from.biased[table]);
  }
};

template <int N>
GTQ_INLINE __m512i right(__m512i x) {
  return N == 0 ? x : _mm512_srli_epi16(x, N);
}
// Bits of `mask` in each byte from a, the others from b.
GTQ_INLINE __m512i select(int mask, __m512i a, __m512i b) {
  return _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(mask)), a, b, 0xca);
}

// The table that knows where the code of output O stands in index_of it.
template <int W, int O>
constexpr int kTableOf = W == 1   ? O % 4
                         : W == 2 ? O % 2
                         : W != 3 ? 0
                         : O < 6  ? O % 2
                                  : O - 4;

template <int W, int O>
GTQ_INLINE __m512i index_of(const std::uint8_t* unit) {
  const auto word = [unit](int w) { return _mm512_loadu_si512(unit + kWordStride * w); };
  if constexpr (W == 1 || W == 2 || W == 4) {
    constexpr int kPerByte = 8 / W;
    return right<O % kPerByte * W / 4 * 4>(word(O / kPerByte));
  } else if constexpr (W == 3) {
    if constexpr (O < 6) return word(O / 2);
    // bit 7 and bit 6 of word 2, bits 7-6 of word 0, bits 7-6 of word 1
    const __m512i low = select(0xc0, word(0), right<2>(word(1)));
    return select(15, right<4>(low), right<2>(word(2)));
  } else if constexpr (W == 5) {
    if constexpr (O < 5) return word(O);
    if constexpr (O < 7) return select(7, right<5>(word(O - 5)), right<2>(word(O - 2)));
    return select(15, select(7, right<5>(word(2)), right<4>(word(3))), right<3>(word(4)));
  } else {
    if constexpr (O < 6) return word(O);
    constexpr int kFirst = 3 * (O % 2);
    const __m512i low = select(3, right<6>(word(kFirst)), right<4>(word(kFirst + 1)));
    return select(15, low, right<2>(word(kFirst + 2)));
  }
}

template <int W, int O>
GTQ_INLINE Levels unpack(const LevelTable<W>& table, const std::uint8_t* unit) {
  return {_mm512_permutexvar_epi8(index_of<W, O>(unit), table.entries[kTableOf<W, O>])};
}

GTQ_INLINE Sums start_sums(const Bias& bias) {
  return {_mm512_set1_epi32(-128 * bias.high), _mm512_set1_epi32(-128 * bias.low)};
}

// A quad in all lanes.
struct Factors {
  __m512i high, low;
};

// Two loads that broadcast; set1 of a number may pass through a scalar register.
GTQ_INLINE Factors everywhere(const Quad* quad) {
  const auto plane = [quad](int i) {
    return _mm512_broadcastd_epi32(_mm_loadu_si32(reinterpret_cast<const char*>(quad) + 4 * i));
  };
  return {plane(0), plane(1)};
}

#if !defined(GTQ_KEEP_ORDER)  // emulated instructions work on no registers
#define GTQ_KEEP_ORDER(a, b) asm volatile("" : "+v"(a), "+v"(b))
#endif

GTQ_INLINE void add_dots(Sums& sums, const Levels& levels, const Factors& factors) {
  __m512i high = _mm512_dpbusd_epi32(sums.high, levels.bytes, factors.high);
  __m512i low = _mm512_dpbusd_epi32(sums.low, levels.bytes, factors.low);
  // Keeps the order of sums: compilers like to load many quads first, and run out of registers.
  GTQ_KEEP_ORDER(high, low);
  sums = {high, low};
}

GTQ_INLINE void add_sums(Sums& to, const Sums& sums) {
  to.high = _mm512_add_epi32(to.high, sums.high);
  to.low = _mm512_add_epi32(to.low, sums.low);
}

GTQ_INLINE vf sums_as_floats(const Sums& sums, int) {
  return reinterpret_cast<vf>(_mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sums.high, 8), sums.low)));
}

// round(scale * x) of n numbers, n a multiple of 16, every |scale * x| at most kMaxQuantized. Quad i goes to
// quads[i * stride].
//
//   value + 128, 16 lanes           lane:  [l + 128, h, ., .]   since value = 256 h + l
//   one byte permutation, four quads       [h0 h1 h2 h3] [l0 l1 l2 l3], l's top bit flipped
GTQ_INLINE Bias pack_quads(const float* x, int n, float scale, Quad* quads, std::size_t stride) {
  alignas(64) static constexpr std::uint8_t kOrder[64] = {1,  5,  9,  13, 0,  4,  8,  12, 17, 21, 25,
                                                          29, 16, 20, 24, 28, 33, 37, 41, 45, 32, 36,
                                                          40, 44, 49, 53, 57, 61, 48, 52, 56, 60};
  alignas(64) static constexpr std::uint32_t kFlips[16] = {0, 0x80808080u, 0, 0x80808080u,
                                                           0, 0x80808080u, 0, 0x80808080u};
  const __m512 gain = _mm512_set1_ps(scale), half = _mm512_set1_ps(128.0f);
  const __m512i order = _mm512_load_si512(kOrder), flips = _mm512_load_si512(kFlips);
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums = _mm512_setzero_si512();  // lanes 0, 2, 4, 6: of h; 1, 3, 5, 7: of l; the others mean nothing
  for (int i = 0; i < n; i += 16) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_loadu_ps(x + i), gain, half));
    const __m512i four = _mm512_xor_si512(_mm512_permutexvar_epi8(order, value), flips);
    sums = _mm512_dpbusd_epi32(sums, ones, four);
    Quad* to = quads + i / 4 * stride;
    const __m128i low = _mm512_extracti32x4_epi32(four, 0), high = _mm512_extracti32x4_epi32(four, 1);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to), low);
    _mm_storeh_pd(reinterpret_cast<double*>(to + stride), _mm_castsi128_pd(low));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * stride), high);
    _mm_storeh_pd(reinterpret_cast<double*>(to + 3 * stride), _mm_castsi128_pd(high));
  }
  alignas(64) std::int32_t lanes[16];
  _mm512_store_si512(lanes, sums);
  return {lanes[0] + lanes[2] + lanes[4] + lanes[6], lanes[1] + lanes[3] + lanes[5] + lanes[7]};
}
