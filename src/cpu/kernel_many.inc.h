// Many (query row, head) pairs: codes are expanded once for all of them, half a page of keys or 16 dims of
// values at a time, to levels in the form that a kernel multiplies (4 or 8 KiB), which stay in L1 while all
// pairs pass:
//
//   sums[pair][16 results] += levels[quad][16 results] * quads[quad][pair]      over all quads

static_assert(kLevelBlocks * sizeof(Levels) <= 64 * kMaxLevelBytes);  // the size of scratch.levels

// Outputs 0 .. 3 to low[0], low[step], ...; 4 .. 7 to `high`.
template <int W, int O = 0>
GTQ_INLINE void expand_unit(const LevelTable<W>& table, const std::uint8_t* unit, Levels* low, Levels* high,
                            int step) {
  (O < 4 ? low : high)[O % 4 * step] = unpack<W, O>(table, unit);
  if constexpr (O < 7) expand_unit<W, O + 1>(table, unit, low, high, step);
}

// Half page of keys -> levels[head_dim_k / 4 quads][2 blocks of 16 cells].
void expand_keys(const HeadTables& head, const std::uint8_t* codes, const std::uint8_t* next, Levels* levels) {
  for (int g = 0; g < head.head_dim_k / 16; ++g) {
    const std::size_t offset = head.group_offset[g];
    for (int w = 0; w < head.widths[g]; ++w) __builtin_prefetch(next + offset + kWordStride * w, 0, 3);
    with_width(head.widths[g], [&](auto width) {
      expand_unit<width.value>(LevelTable<width.value>(head.codes[width.value]), codes + offset, levels + 8 * g,
                               levels + 8 * g + 1, 2);
    });
  }
}

// 16 dims of values of all pages of the tile -> levels[quads of 4 cells * step].
void expand_values(const PageJob& job, const Tile& tile, int unit, Levels* levels, int step) {
  const HeadTables& head = *job.head;
  const std::ptrdiff_t ahead = kTilePages * job.page_step * static_cast<std::ptrdiff_t>(job.value_page_stride);
  with_width(head.v_width, [&](auto width) {
    constexpr int kW = width.value;
    const LevelTable<kW> table(head.codes[kW]);
    for (int t = 0; t < tile.n_pages; ++t) {
      const std::uint8_t* codes =
          job.value_pages + tile.pages[t] * job.value_page_stride + 2 * unit * kW * kWordStride;
      for (int half = 0; half < 2; ++half, codes += kW * kWordStride, levels += 8 * step) {
        for (int w = 0; w < kW; ++w) __builtin_prefetch(codes + ahead + kWordStride * w, 0, 3);
        expand_unit<kW>(table, codes, levels, levels + 4 * step, step);
      }
    }
  });
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
  const std::ptrdiff_t ahead = kTilePages * job.page_step * static_cast<std::ptrdiff_t>(job.key_page_stride);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* codes = keys + half * head.half_bytes;
    expand_keys(head, codes, codes + ahead, levels);
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
  for (int b = 0; b < kBlocks; ++b) expand_values(job, tile, unit + b, levels + b, kBlocks);
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
