// Integer dot products on NEON with its dot product extension: the interface that kernel_few.inc.h and
// kernel_many.inc.h are written against.
//
//   output of a unit (page_layout.h), 16 lanes of four codes     lane:  [c0 c1 c2 c3]
//   level of each code by a look-up of bytes                     lane:  [s0 s1 s2 s3]
//   Quad: four neighbours of the query, 256 h + l, signed bytes         [h0 h1 h2 h3] [l0 l1 l2 l3]
//   two dot products of four bytes, summed in 32 bits            lane:  sum s_i h_i,  sum s_i l_i
//
// Levels are signed like the query, so sums start at zero. A register has 4 lanes: an output takes four. A
// look-up gives 0 for an index beyond its table, so bits above the index are masked; narrow codebooks are
// repeated to 16 entries and need that only where a shift leaves more than four bits.

constexpr int kBlockPairs = 2;  // pairs whose sums stay in registers; GCC spills some of three
constexpr int kLevelPairs = 2, kLevelBlocks = 1;  // the same beside expanded levels, with 16 results a block
template <int N>
constexpr int kSumSets = 1;  // a pair's 8 sums keep the units busy
// Blocks of 16 keys whose sums stay in registers with them.
template <int N>
constexpr int kKeyBlocks = N == 1 ? 2 : 1;

// Lanes 4 v .. 4 v + 4 in register v.
struct Sums {
  int32x4_t high[4], low[4];
};
struct Levels {
  int8x16_t bytes[4];
};
struct Bias {};

template <int N>
GTQ_INLINE uint8x16_t right(uint8x16_t x) {
  if constexpr (N == 0) return x;
  return vshrq_n_u8(x, N == 0 ? 1 : N);
}
GTQ_INLINE uint8x16_t masked(uint8x16_t x, std::uint8_t mask) { return vandq_u8(x, vdupq_n_u8(mask)); }
// The upper N bits of each byte of `low` below those of `high` from bit N on.
template <int N>
GTQ_INLINE uint8x16_t below(uint8x16_t low, uint8x16_t high) {
  return vsriq_n_u8(high, low, 8 - N);
}

template <int W>
constexpr int kIndexBits = W <= 4 ? 4 : W;

// The code at bit N of each byte, and bits above it that the table of width W ignores.
template <int W, int N>
GTQ_INLINE uint8x16_t field(uint8x16_t x) {
  if constexpr (8 - N <= kIndexBits<W>) return right<N>(x);
  return masked(right<N>(x), (1 << kIndexBits<W>)-1);
}

// `at` points at 16 bytes of word 0.
template <int W, int O>
GTQ_INLINE uint8x16_t index_of(const std::uint8_t* at) {
  const auto word = [at](int w) { return vld1q_u8(at + kWordStride * w); };
  if constexpr (W == 1 || W == 2 || W == 4) {
    constexpr int kPerByte = 8 / W;
    return field<W, W*(O % kPerByte)>(word(O / kPerByte));
  } else if constexpr (W == 3) {
    if constexpr (O < 6) return field<W, 3 * (O % 2)>(word(O / 2));
    return below<2>(word(O % 2), right<4 + O % 2>(word(2)));
  } else if constexpr (W == 5) {
    if constexpr (O < 5) return field<W, 0>(word(O));
    if constexpr (O < 7) return masked(below<3>(word(O - 5), right<2>(word(O - 2))), 31);
    return below<3>(word(2), below<4>(word(3), right<3>(word(4))));
  } else {
    if constexpr (O < 6) return field<W, 0>(word(O));
    constexpr int kFirst = 3 * (O % 2);
    return below<2>(word(kFirst), below<4>(word(kFirst + 1), right<2>(word(kFirst + 2))));
  }
}

// Codebook in 1, 2 or 4 registers that follow each other, as one look-up wants them.
template <int W>
GTQ_INLINE auto load_codebook(const std::int8_t* from) {
  if constexpr (W <= 4) {
    return vld1q_s8(from);
  } else if constexpr (W == 5) {
    return vld1q_s8_x2(from);
  } else {
    return vld1q_s8_x4(from);
  }
}

template <int W>
struct LevelTable {
  decltype(load_codebook<W>(nullptr)) entries;

  explicit LevelTable(const CodeTable& from) : entries(load_codebook<W>(from.bytes)) {}
};

GTQ_INLINE int8x16_t look_up(int8x16_t table, uint8x16_t index) { return vqtbl1q_s8(table, index); }
GTQ_INLINE int8x16_t look_up(int8x16x2_t table, uint8x16_t index) { return vqtbl2q_s8(table, index); }
GTQ_INLINE int8x16_t look_up(int8x16x4_t table, uint8x16_t index) { return vqtbl4q_s8(table, index); }

template <int W, int O>
GTQ_INLINE Levels unpack(const LevelTable<W>& table, const std::uint8_t* unit) {
  // Words are loaded again for every output: a unit's of 3 bits would fill 12 registers.
  asm volatile("" : "+r"(unit));
  return {{look_up(table.entries, index_of<W, O>(unit)), look_up(table.entries, index_of<W, O>(unit + 16)),
           look_up(table.entries, index_of<W, O>(unit + 32)),
           look_up(table.entries, index_of<W, O>(unit + 48))}};
}

GTQ_INLINE Sums start_sums(Bias) { return {}; }

// A quad; multiplications take one of its halves for all lanes.
struct Factors {
  int8x8_t halves;
};

GTQ_INLINE Factors everywhere(const Quad* quad) {
  return {vld1_s8(reinterpret_cast<const std::int8_t*>(quad))};
}

GTQ_INLINE void add_dots(Sums& sums, const Levels& levels, const Factors& factors) {
  GTQ_UNROLL
  for (int v = 0; v < 4; ++v) {
    sums.high[v] = vdotq_lane_s32(sums.high[v], levels.bytes[v], factors.halves, 0);
    sums.low[v] = vdotq_lane_s32(sums.low[v], levels.bytes[v], factors.halves, 1);
  }
}

GTQ_INLINE void add_sums(Sums& to, const Sums& sums) {
  GTQ_UNROLL
  for (int v = 0; v < 4; ++v) {
    to.high[v] = vaddq_s32(to.high[v], sums.high[v]);
    to.low[v] = vaddq_s32(to.low[v], sums.low[v]);
  }
}

GTQ_INLINE vf sums_as_floats(const Sums& sums, int v) {
  return reinterpret_cast<vf>(vcvtq_f32_s32(vaddq_s32(vshlq_n_s32(sums.high[v], 8), sums.low[v])));
}

// round(scale * x) of n numbers, n a multiple of 4, every |scale * x| at most kMaxQuantized. Quad i goes to
// quads[i * stride].
GTQ_INLINE Bias pack_quads(const float* x, int n, float scale, Quad* quads, std::size_t stride) {
  for (int i = 0; i < n; i += 4) {
    const int32x4_t value = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), scale));
    // The upper half of a number, rounded, and the lower, which is its last byte whatever the rounding was.
    const int16x8_t both = vcombine_s16(vmovn_s32(vrshrq_n_s32(value, 8)), vmovn_s32(value));
    vst1_s8(reinterpret_cast<std::int8_t*>(quads + i / 4 * stride), vmovn_s16(both));
  }
  return {};
}
