// The multiply-adds of attention without anything around them: what it could do at most, for the benchmarks.
// Numbers stay in registers, but factors are read from L1 and spread over a register, as attention does it.

// About n multiply-adds of a level and a 16-bit number: rounds of kBlockPairs pairs with one output of a unit,
// 64 each. Returns how many they were.
GTQ_INLINE std::int64_t multiply(std::int64_t n) {
  constexpr int kPerRound = kBlockPairs * 64;
  const std::int64_t n_rounds = n / kPerRound;
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
  for (std::int64_t round = 0; round < n_rounds; ++round) {
    asm volatile("" : "+r"(at));  // nor that factors are the same again
    GTQ_UNROLL
    for (int i = 0; i < kBlockPairs; ++i) add_dots(sums[i], levels, everywhere(at + i));
  }
  vf all = {};
  GTQ_UNROLL
  for (int i = 0; i < kBlockPairs * kVecs; ++i) all += sums_as_floats(sums[i / kVecs], i % kVecs);
  asm volatile("" : : "m"(all));  // used
  return n_rounds * kPerRound;
}
