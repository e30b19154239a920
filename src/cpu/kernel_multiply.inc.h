// The multiply-adds of a kernel's two ways of attention without anything around them: what attention could do
// at most, for the benchmarks. Numbers stay in registers, but factors are read from L1 and spread over a
// register, as attention does it. Each function returns how many multiply-adds it has done.

constexpr int kIntegerRound = kBlockPairs * 64, kFloatRound = kMaxRows * kPanel;

// kBlockPairs pairs with one output of a unit: 64 multiply-adds of a level and a 16-bit number each.
GTQ_INLINE std::int64_t multiply_integers(std::int64_t n) {
  alignas(64) Quad quads[kBlockPairs] = {};
  const std::uint8_t zeros[4 * kWordStride] = {};
  const std::uint8_t* unit = zeros;
  asm volatile("" : "+r"(unit));  // the compiler must not know that all levels are the same
  const CodeTable codes = {};
  const Levels levels = unpack<4, 0>(LevelTable<4>(codes), unit);
  Sums sums[kBlockPairs];
  GTQ_UNROLL
  for (int i = 0; i < kBlockPairs; ++i) sums[i] = start_sums(Bias{});
  const Quad* at = quads;
  for (std::int64_t round = 0; round < n; ++round) {
    asm volatile("" : "+r"(at));  // nor that factors are the same again
    GTQ_UNROLL
    for (int i = 0; i < kBlockPairs; ++i) add_dots(sums[i], levels, everywhere(at + i));
  }
  vf all = {};
  GTQ_UNROLL
  for (int i = 0; i < kBlockPairs * kVecs; ++i) all += sums_as_floats(sums[i / kVecs], i % kVecs);
  asm volatile("" : : "m"(all));  // used
  return n * kIntegerRound;
}

// A block of kMaxRows rows and a panel (kernel_gemm.inc.h), one k again and again.
GTQ_INLINE std::int64_t multiply_floats(std::int64_t n) {
  const float zeros[kPanel] = {};
  const float *panel = zeros, *rows = zeros;
  asm volatile("" : "+r"(panel));
  vf column[kVecs], sums[kMaxRows][kVecs] = {};
  GTQ_UNROLL
  for (int v = 0; v < kVecs; ++v) column[v] = load<vf>(panel + v * kLanes);
  for (std::int64_t round = 0; round < n; ++round) {
    asm volatile("" : "+r"(rows));
    GTQ_UNROLL
    for (int r = 0; r < kMaxRows; ++r) {
      const vf x = splat(rows[r]);
      GTQ_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[r][v] += x * column[v];
    }
  }
  vf all = {};
  GTQ_UNROLL
  for (int i = 0; i < kMaxRows * kVecs; ++i) all += sums[i / kVecs][i % kVecs];
  asm volatile("" : : "m"(all));
  return n * kFloatRound;
}

// About n of them.
GTQ_INLINE std::int64_t multiply(std::int64_t n, bool expanded) {
  return expanded ? multiply_floats(n / kFloatRound) : multiply_integers(n / kIntegerRound);
}
