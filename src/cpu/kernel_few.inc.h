// Few (query row, head) pairs, one block: codes are unpacked in registers.
//
//   keys    logits of 16 or 32 cells at a time: sums of all pairs of the block in registers
//   values  16 dims at a time: sums over the whole tile in registers

// ---- sums of a block of kN pairs

template <int kN>
GTQ_INLINE void start_all(const Bias* bias, Sums (&sums)[kSumSets<kN>][kN]) {
  GTQ_UNROLL
  for (int set = 0; set < kSumSets<kN>; ++set) {
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) sums[set][i] = start_sums(set == 0 && bias != nullptr ? bias[i] : Bias{});
  }
}

template <int kN>
GTQ_INLINE void join_sets(Sums (&sums)[kSumSets<kN>][kN]) {
  GTQ_UNROLL
  for (int set = 1; set < kSumSets<kN>; ++set) {
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) add_sums(sums[0][i], sums[set][i]);
  }
}

// ---- keys

// Operands of kN pairs and half a page of keys.
struct KeyBlock {
  const std::uint8_t *codes, *soon, *ahead;  // half page; half pages to prefetch, or null
  const Quad* quads;
  const Bias* bias;
  LogitsTo to;
};

template <int kN>
using KeySums = Sums[kSumSets<kN>][kN];

// Slots 4 kSlots .. 16 of a unit and the 16-cell blocks kFirst .. kFirst + kBlocks of its half page.
template <int W, int kSlots, int kFirst, int kBlocks, int kN>
GTQ_INLINE void add_key_unit(const LevelTable<W>& table, const std::uint8_t* unit, const Quad* quads,
                             KeySums<kN> (&sums)[kBlocks]) {
  constexpr int kSet = kSlots % kSumSets<kN>;
  const Levels levels = unpack<W, 4 * kFirst + kSlots>(table, unit);
  if constexpr (kBlocks == 1) {
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) add_dots(sums[0][kSet][i], levels, everywhere(quads + i));
  } else {
    const Levels second = unpack<W, 4 + kSlots>(table, unit);
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) {
      const Factors factors = everywhere(quads + i);
      add_dots(sums[0][kSet][i], levels, factors);
      add_dots(sums[1][kSet][i], second, factors);
    }
  }
  if constexpr (kSlots < 3) {
    add_key_unit<W, kSlots + 1, kFirst, kBlocks, kN>(table, unit, quads + kN, sums);
  }
}

template <int W, int kFirst, int kBlocks, int kN>
GTQ_INLINE void add_groups(const HeadTables& head, const KeyBlock& block, int& g,
                           KeySums<kN> (&sums)[kBlocks]) {
  const int n_groups = head.head_dim_k / 16;
  if (g == n_groups || head.widths[g] != W) return;
  const LevelTable<W> table(head.codes[W]);
  for (; g < n_groups && head.widths[g] == W; ++g) {
    const std::size_t offset = head.group_offset[g];
    if (block.ahead != nullptr) {
      for (int w = 0; w < W; ++w) prefetch_ahead(block.ahead + offset + kWordStride * w);
      for (int w = 0; w < W && kPagesSoon > 0; ++w) prefetch(block.soon + offset + kWordStride * w);
    }
    add_key_unit<W, 0, kFirst, kBlocks, kN>(table, block.codes + offset, block.quads + 4 * g * kN, sums);
  }
}

// Cells 16 kFirst .. 16 (kFirst + kBlocks) of a half page.
template <int kFirst, int kBlocks, int kN>
void key_block(const HeadTables& head, const KeyBlock& block, bool add) {
  KeySums<kN> sums[kBlocks];
  GTQ_UNROLL
  for (int b = 0; b < kBlocks; ++b) start_all<kN>(block.bias, sums[b]);
  int g = 0;
  add_groups<1, kFirst, kBlocks, kN>(head, block, g, sums);
  add_groups<2, kFirst, kBlocks, kN>(head, block, g, sums);
  add_groups<3, kFirst, kBlocks, kN>(head, block, g, sums);
  add_groups<4, kFirst, kBlocks, kN>(head, block, g, sums);
  add_groups<5, kFirst, kBlocks, kN>(head, block, g, sums);
  add_groups<6, kFirst, kBlocks, kN>(head, block, g, sums);
  GTQ_UNROLL
  for (int b = 0; b < kBlocks; ++b) {
    join_sets<kN>(sums[b]);
    store_logits<kN>(block.to, sums[b][0], kPanel * (kFirst + b), add);
  }
}

template <int kN>
void few_keys(const PageJob& job, const PageView& view, const std::uint8_t* keys, float* logits, bool add) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const std::ptrdiff_t step = job.page_step * static_cast<std::ptrdiff_t>(job.key_page_stride);
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* codes = keys + half * head.half_bytes;
    KeyBlock block = {.codes = codes,
                      .soon = codes + kPagesSoon * step,
                      .ahead = codes + kPagesAhead * step,
                      .quads = s.query_quads,
                      .bias = static_cast<const Bias*>(s.query_bias),
                      .to = logits_to(s, view, half, 0, logits)};
    if constexpr (kKeyBlocks<kN> == 2) {
      key_block<0, 2, kN>(head, block, add);
    } else {
      key_block<0, 1, kN>(head, block, add);
      block.ahead = nullptr;
      key_block<1, 1, kN>(head, block, add);
    }
  }
  prefetch(keys + kPagesAhead * step + head.key_norm_offset);
}

// ---- values

// Outputs O .. 8 of a unit times the quads of kN pairs; output O belongs to quads[0].
template <int W, int O, int kN>
GTQ_INLINE void add_value_unit(const LevelTable<W>& table, const std::uint8_t* unit, const Quad* quads,
                               Sums (&sums)[kSumSets<kN>][kN]) {
  const Levels levels = unpack<W, O>(table, unit);
  GTQ_UNROLL
  for (int i = 0; i < kN; ++i) add_dots(sums[O % kSumSets<kN>][i], levels, everywhere(quads + i));
  if constexpr (O < 7) add_value_unit<W, O + 1, kN>(table, unit, quads + kN, sums);
}

// All dims, all pages of the tile.
template <int W, int kN>
void few_values(const PageJob& job, const Tile& tile) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const std::ptrdiff_t step = job.page_step * static_cast<std::ptrdiff_t>(job.value_page_stride);
  const std::ptrdiff_t ahead = kPagesAhead * step;
  const LevelTable<W> table(head.codes[W]);
  constexpr std::ptrdiff_t kUnitBytes = W * kWordStride;
  const int n_units = head.head_dim_v / 16;
  for (int unit = 0; unit < n_units; ++unit) {
    // The next unit of the page; after the last one, the first of the page's place in the next tile.
    const std::ptrdiff_t soon = unit + 1 < n_units ? 2 * kUnitBytes : kTilePages * step - 2 * unit * kUnitBytes;
    Sums sums[kSumSets<kN>][kN];
    start_all<kN>(static_cast<const Bias*>(s.weight_bias), sums);
    const Quad* quads = s.weight_quads;
    for (int t = 0; t < tile.n_pages; ++t) {
      const std::uint8_t* codes =
          job.value_pages + tile.pages[t] * job.value_page_stride + 2 * unit * kUnitBytes;
      for (int half = 0; half < 2; ++half, codes += kUnitBytes, quads += 8 * kN) {
        for (int w = 0; w < W; ++w) prefetch_ahead(codes + ahead + kWordStride * w);
        for (int w = 0; w < W && kPagesSoon > 0; ++w) prefetch(codes + soon + kWordStride * w);
        add_value_unit<W, 0, kN>(table, codes, quads, sums);
      }
    }
    join_sets<kN>(sums);
    add_outputs<kN>(job, sums[0], 0, unit);
  }
}
