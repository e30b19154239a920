// Many (query row, head) pairs, by the instructions that few pairs take:
//
//   sums[pair][16 results] += levels[quad][16 results] * quads[quad][pair]      over all quads

static_assert(kLevelBlocks * sizeof(Levels) <= 64 * kMaxLevelBytes);  // the size of scratch.levels

// Row m of n numbers that levels are to be multiplied by.
GTQ_INLINE void pack_many(const float* x, int n, float scale, int m, std::size_t n_pairs, Quad* quads,
                          void* bias) {
  static_cast<Bias*>(bias)[m] = pack_quads(x, n, scale, quads + m, n_pairs);
}

// sums[b][i] += levels[q * step + b] * quads[q * stride + i], q = 0 .. n_quads.
template <int kBlocks, int kN>
GTQ_INLINE void add_levels(const Levels* levels, int step, int n_quads, const Quad* quads, std::size_t stride,
                           Sums (&sums)[kBlocks][kN]) {
  for (int q = 0; q < n_quads; ++q, levels += step, quads += stride) {
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) {
      const Factors factors = everywhere(quads + i);
      GTQ_UNROLL
      for (int b = 0; b < kBlocks; ++b) add_dots(sums[b][i], levels[b], factors);
    }
  }
}

template <int kBlocks, int kN>
GTQ_INLINE void start_blocks(const Bias* bias, Sums (&sums)[kBlocks][kN]) {
  GTQ_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) sums[b][i] = start_sums(bias[i]);
  }
}

void many_keys(const PageJob& job, const PageView& view, const std::uint8_t* keys, float* logits, bool add) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  Levels* levels = static_cast<Levels*>(s.levels);
  const std::ptrdiff_t ahead = kPagesAhead * job.page_step * static_cast<std::ptrdiff_t>(job.key_page_stride);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* codes = keys + half * head.half_bytes;
    expand_keys<LevelTable>(head, codes, codes + ahead, levels);
    for_blocks<kLevelPairs>(n, [&](auto size, int m) {
      constexpr int kN = size.value;
      const LogitsTo to = logits_to(s, view, half, m, logits);
      for (int first = 0; first < 2; first += kLevelBlocks) {
        Sums sums[kLevelBlocks][kN];
        start_blocks<kLevelBlocks, kN>(static_cast<const Bias*>(s.query_bias) + m, sums);
        add_levels<kLevelBlocks, kN>(levels + first, 2, head.head_dim_k / 4, s.query_quads + m, n, sums);
        GTQ_UNROLL
        for (int b = 0; b < kLevelBlocks; ++b) store_logits<kN>(to, sums[b], kPanel * (first + b), add);
      }
    });
  }
}

// Dims 16 unit .. 16 (unit + kBlocks).
template <int kBlocks>
void many_value_units(const PageJob& job, const Tile& tile, int unit) {
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  Levels* levels = static_cast<Levels*>(s.levels);
  for (int b = 0; b < kBlocks; ++b) expand_values<LevelTable>(job, tile, unit + b, levels + b, kBlocks);
  for_blocks<kLevelPairs>(n, [&](auto size, int m) {
    constexpr int kN = size.value;
    Sums sums[kBlocks][kN];
    start_blocks<kBlocks, kN>(static_cast<const Bias*>(s.weight_bias) + m, sums);
    add_levels<kBlocks, kN>(levels, kBlocks, tile.n_pages * kPageCells / 4, s.weight_quads + m, n, sums);
    GTQ_UNROLL
    for (int b = 0; b < kBlocks; ++b) add_outputs<kN>(job, sums[b], m, unit + b);
  });
}

void many_values(const PageJob& job, const Tile& tile) {
  const int n_units = job.head->head_dim_v / 16;
  int unit = 0;
  for (; unit + kLevelBlocks <= n_units; unit += kLevelBlocks) many_value_units<kLevelBlocks>(job, tile, unit);
  for (; unit < n_units; ++unit) many_value_units<1>(job, tile, unit);
}
