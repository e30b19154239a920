// Integer dot products without intrinsics: the interface that kernel_few.inc.h and kernel_many.inc.h are
// written against, in the arithmetic of dot_avx512.inc.h (levels + 128 as unsigned bytes, the query as two
// signed bytes), for the baseline of any architecture. It is meant to be read and compared with, not to be
// fast.

constexpr int kBlockPairs = 2;
constexpr int kLevelPairs = 2, kLevelBlocks = 1;
template <int N>
constexpr int kSumSets = 3 - N;
// Blocks of 16 keys whose sums stay in registers with them.
template <int N>
constexpr int kKeyBlocks = 3 - N;

struct Sums {
  std::int32_t high[16], low[16];
};
struct Levels {
  std::uint8_t byte[64];
};
struct Bias {
  std::int32_t high, low;
};
struct Factors {
  std::int8_t high[4], low[4];
};
static_assert(sizeof(Factors) == sizeof(Quad));

template <int W>
struct LevelTable {
  const std::uint8_t* levels;

  explicit LevelTable(const CodeTable& from) : levels(from.biased[0]) {}
};

template <int W, int O>
GTQ_INLINE unsigned code_of(const std::uint8_t* at) {
  const auto word = [at](int w) { return static_cast<unsigned>(at[kWordStride * w]); };
  if constexpr (W == 1 || W == 2 || W == 4) {
    constexpr int kPerByte = 8 / W;
    return word(O / kPerByte) >> (W * (O % kPerByte));
  } else if constexpr (W == 3) {
    if constexpr (O < 6) return word(O / 2) >> (3 * (O % 2));
    return word(O % 2) >> 6 | (word(2) >> (4 + O % 2) & 4);
  } else if constexpr (W == 5) {
    if constexpr (O < 5) return word(O);
    if constexpr (O < 7) return word(O - 5) >> 5 | (word(O - 2) >> 2 & 24);
    return word(2) >> 5 | (word(3) >> 4 & 8) | (word(4) >> 3 & 16);
  } else {
    if constexpr (O < 6) return word(O);
    constexpr int kFirst = 3 * (O % 2);
    return word(kFirst) >> 6 | (word(kFirst + 1) >> 4 & 12) | (word(kFirst + 2) >> 2 & 48);
  }
}

template <int W, int O>
GTQ_INLINE Levels unpack(const LevelTable<W>& table, const std::uint8_t* unit) {
  Levels levels;
  for (int i = 0; i < 64; ++i) levels.byte[i] = table.levels[code_of<W, O>(unit + i) & ((1u << W) - 1)];
  return levels;
}

GTQ_INLINE Sums start_sums(const Bias& bias) {
  Sums sums;
  for (int lane = 0; lane < 16; ++lane) {
    sums.high[lane] = -128 * bias.high;
    sums.low[lane] = -128 * bias.low;
  }
  return sums;
}

GTQ_INLINE Factors everywhere(const Quad* quad) { return load<Factors>(quad); }

GTQ_INLINE void add_dots(Sums& sums, const Levels& levels, const Factors& q) {
  for (int lane = 0; lane < 16; ++lane) {
    for (int i = 0; i < 4; ++i) {
      sums.high[lane] += levels.byte[4 * lane + i] * q.high[i];
      sums.low[lane] += levels.byte[4 * lane + i] * q.low[i];
    }
  }
}

GTQ_INLINE void add_sums(Sums& to, const Sums& sums) {
  for (int lane = 0; lane < 16; ++lane) {
    to.high[lane] += sums.high[lane];
    to.low[lane] += sums.low[lane];
  }
}

GTQ_INLINE vf sums_as_floats(const Sums& sums, int i) {
  vf x;
  for (int lane = 0; lane < kLanes; ++lane) {
    x[lane] = static_cast<float>(256 * sums.high[i * kLanes + lane] + sums.low[i * kLanes + lane]);
  }
  return x;
}

GTQ_INLINE Bias pack_quads(const float* x, int n, float scale, Quad* quads, std::size_t stride) {
  Bias bias{0, 0};
  for (int i = 0; i < n; i += 4) {
    Factors q;
    for (int j = 0; j < 4; ++j) {
      const int value = static_cast<int>(__builtin_rintf(scale * x[i + j]));
      const int high = (value + 128) >> 8, low = value - 256 * high;
      q.high[j] = static_cast<std::int8_t>(high);
      q.low[j] = static_cast<std::int8_t>(low);
      bias.high += high;
      bias.low += low;
    }
    __builtin_memcpy(quads + i / 4 * stride, &q, sizeof(q));
  }
  return bias;
}
