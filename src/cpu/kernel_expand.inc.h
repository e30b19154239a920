// Expansion of one unit (page_layout.h) to floats: kLevelUnit times the codebook levels of 8 outputs, each as 4
// rows of a 16-column panel. Outputs 0..3 go to `low`, 4..7 to `high`, 16 rows each:
//
//   lane c of word w  ->  byte i of output o = code  ->  row 4 (o % 4) + i, column c
//
// Where a register holds the codebook as floats, a code is looked up by one lane permutation of floats, whose
// index may have anything above the code; wider codebooks go through byte tables of 16 entries.

#if defined(__AVX512F__)
constexpr int kFloatEntries = 32;  // of the largest codebook that a permutation of floats looks up
#elif defined(__AVX2__)
constexpr int kFloatEntries = 8;
#else
constexpr int kFloatEntries = 0;
#endif
#if defined(__SSSE3__) || defined(__aarch64__)
constexpr bool kPermutesBytes = true;
#else
constexpr bool kPermutesBytes = false;
#endif

constexpr std::uint32_t bytes_of(std::uint32_t byte) { return byte * 0x01010101u; }

// Each byte of `codes` replaced by the entry of the table that its low 4 bits name.
GTQ_INLINE vb permute_bytes(v16b table, vu codes) {
#if defined(__AVX512F__)
  const auto q = reinterpret_cast<v8q>(codes);
  const v4q low = __builtin_shufflevector(q, q, 0, 1, 2, 3), high = __builtin_shufflevector(q, q, 4, 5, 6, 7);
  v2q part[4] = {__builtin_shufflevector(low, low, 0, 1), __builtin_shufflevector(low, low, 2, 3),
                 __builtin_shufflevector(high, high, 0, 1), __builtin_shufflevector(high, high, 2, 3)};
  GTQ_UNROLL
  for (v2q& p : part) p = reinterpret_cast<v2q>(__builtin_shuffle(table, reinterpret_cast<v16b>(p)));
  const v4q a = __builtin_shufflevector(part[0], part[1], 0, 1, 2, 3);
  const v4q b = __builtin_shufflevector(part[2], part[3], 0, 1, 2, 3);
  return reinterpret_cast<vb>(__builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7));
#elif defined(__AVX__)
  const auto q = reinterpret_cast<v4q>(codes);
  const v2q low = __builtin_shufflevector(q, q, 0, 1), high = __builtin_shufflevector(q, q, 2, 3);
  const auto a = reinterpret_cast<v2q>(__builtin_shuffle(table, reinterpret_cast<v16b>(low)));
  const auto b = reinterpret_cast<v2q>(__builtin_shuffle(table, reinterpret_cast<v16b>(high)));
  return reinterpret_cast<vb>(__builtin_shufflevector(a, b, 0, 1, 2, 3));
#else
  return __builtin_shuffle(table, reinterpret_cast<v16b>(codes));
#endif
}

// Codes of 8 outputs of one vector of lanes; garbage above the code where no bits had to be joined.
template <int W>
GTQ_INLINE void split_words(const vu (&w)[W], vu (&o)[8]) {
  if constexpr (W == 1 || W == 2 || W == 4) {
    constexpr int kPerByte = 8 / W;
    GTQ_UNROLL
    for (int i = 0; i < 8; ++i) o[i] = w[i / kPerByte] >> (W * (i % kPerByte));
  } else if constexpr (W == 3) {
    GTQ_UNROLL
    for (int i = 0; i < 6; ++i) o[i] = w[i / 2] >> (3 * (i % 2));
    o[6] = (w[0] >> 6 & bytes_of(3)) | (w[2] >> 4 & bytes_of(4));
    o[7] = (w[1] >> 6 & bytes_of(3)) | (w[2] >> 5 & bytes_of(4));
  } else if constexpr (W == 5) {
    GTQ_UNROLL
    for (int i = 0; i < 5; ++i) o[i] = w[i];
    o[5] = (w[0] >> 5 & bytes_of(7)) | (w[3] >> 2 & bytes_of(24));
    o[6] = (w[1] >> 5 & bytes_of(7)) | (w[4] >> 2 & bytes_of(24));
    o[7] = (w[2] >> 5 & bytes_of(7)) | (w[3] >> 4 & bytes_of(8)) | (w[4] >> 3 & bytes_of(16));
  } else {
    GTQ_UNROLL
    for (int i = 0; i < 6; ++i) o[i] = w[i];
    GTQ_UNROLL
    for (int i = 0; i < 2; ++i) {
      o[6 + i] = (w[3 * i] >> 6 & bytes_of(3)) | (w[3 * i + 1] >> 4 & bytes_of(12)) |
                 (w[3 * i + 2] >> 2 & bytes_of(48));
    }
  }
}

// Codebook as floats in one register or in two.
template <int W>
struct FloatTable {
  static constexpr int kParts = (1 << W) > kLanes ? (1 << W) / kLanes : 1;
  vf part[kParts];

  explicit FloatTable(const CodeTable& from) {
    for (int i = 0; i < kParts; ++i) part[i] = load<vf>(from.floats + i * kLanes);
  }
  GTQ_INLINE void rows(const FloatTable& table, vu codes, vf (&out)[4]) {
    GTQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      const vi index = reinterpret_cast<vi>(codes >> (8 * i));
      out[i] = kParts == 1 ? __builtin_shuffle(table.part[0], index)
                           : __builtin_shuffle(table.part[0], table.part[kParts - 1], index);
    }
  }
};

// Codebook as bytes, in 1, 2 or 4 tables of 16; bits 4 and 5 of the code choose among them. A level in the top
// byte of a lane is 2^24 levels, which is why kLevelUnit is what it is.
template <int W>
struct ByteTable {
  static constexpr int kParts = W <= 4 ? 1 : (1 << W) / 16;
  v16b part[kParts];

  explicit ByteTable(const CodeTable& from) {
    for (int i = 0; i < kParts; ++i) part[i] = load<v16b>(from.bytes + i * 16);
  }
  GTQ_INLINE vb choose(vu bit7, vb high, vb low) { return reinterpret_cast<vb>(bit7) < 0 ? high : low; }
  GTQ_INLINE vb levels(const ByteTable& table, vu codes) {
    vb found[kParts];
    GTQ_UNROLL
    for (int i = 0; i < kParts; ++i) found[i] = permute_bytes(table.part[i], codes);
    if constexpr (kParts == 1) {
      return found[0];
    } else {
      const vb low = choose(codes << 3, found[1], found[0]);
      if constexpr (kParts == 2) return low;
      return choose(codes << 2, choose(codes << 3, found[kParts - 1], found[kParts - 2]), low);
    }
  }
  GTQ_INLINE void rows(const ByteTable& table, vu codes, vf (&out)[4]) {
    const vu level = reinterpret_cast<vu>(levels(table, codes));
    GTQ_UNROLL
    for (int i = 0; i < 4; ++i) {
      const vu top = level << (24 - 8 * i);
      out[i] = __builtin_convertvector(reinterpret_cast<vi>(i == 0 ? top : top & 0xff000000u), vf);
    }
  }
};

// For instruction sets without a byte permutation.
template <int W>
struct ScalarTable {
  const float* levels;

  explicit ScalarTable(const CodeTable& from) : levels(from.floats) {}
  GTQ_INLINE void rows(const ScalarTable& table, vu codes, vf (&out)[4]) {
    std::uint8_t code[4 * kLanes];
    __builtin_memcpy(code, &codes, sizeof(code));
    float level[4][kLanes];
    for (int i = 0; i < 4 * kLanes; ++i) level[i % 4][i / 4] = table.levels[code[i] & ((1u << W) - 1)];
    for (int i = 0; i < 4; ++i) out[i] = load<vf>(level[i]);
  }
};

template <bool kFirst, class T, class F>
struct Choose {
  using Type = T;
};
template <class T, class F>
struct Choose<false, T, F> {
  using Type = F;
};
template <int W>
using TableOf = typename Choose<(1 << W) <= kFloatEntries, FloatTable<W>,
                                typename Choose<kPermutesBytes, ByteTable<W>, ScalarTable<W>>::Type>::Type;

// `prefetch` is the same unit of the page that comes next.
template <int W>
void expand_unit(const CodeTable& codes, const std::uint8_t* unit, const std::uint8_t* prefetch,
                 float* __restrict low, float* __restrict high) {
  const TableOf<W> table(codes);
  for (int i = 0; i < W; ++i) __builtin_prefetch(prefetch + 64 * i, 0, 2);
  for (int chunk = 0; chunk < kVecs; ++chunk) {
    vu words[W];
    GTQ_UNROLL
    for (int w = 0; w < W; ++w) words[w] = load<vu>(unit + 64 * w + 4 * kLanes * chunk);
    vu outputs[8];
    split_words<W>(words, outputs);
    GTQ_UNROLL
    for (int o = 0; o < 8; ++o) {
      float* to = (o < 4 ? low : high) + 4 * kPanel * (o % 4) + kLanes * chunk;
      vf rows[4];
      TableOf<W>::rows(table, outputs[o], rows);
      GTQ_UNROLL
      for (int i = 0; i < 4; ++i) store(to + kPanel * i, rows[i]);
    }
  }
}

void expand(int width, const HeadTables& head, const std::uint8_t* unit, const std::uint8_t* prefetch,
            float* low, float* high) {
  const CodeTable& codes = head.codes[width];
  switch (width) {
    case 1:
      return expand_unit<1>(codes, unit, prefetch, low, high);
    case 2:
      return expand_unit<2>(codes, unit, prefetch, low, high);
    case 3:
      return expand_unit<3>(codes, unit, prefetch, low, high);
    case 4:
      return expand_unit<4>(codes, unit, prefetch, low, high);
    case 5:
      return expand_unit<5>(codes, unit, prefetch, low, high);
    default:
      return expand_unit<6>(codes, unit, prefetch, low, high);
  }
}
