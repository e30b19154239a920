// Codes of many (query row, head) pairs' keys and values, expanded once for all of them: half a page of keys or
// 16 dims of values at a time, to levels in the form that a kernel multiplies (4 or 8 KiB), which stay in L1
// while all pairs pass. Table<W> is the kernel's LevelTable or derived from it.

// Outputs 0 .. 3 to low[0], low[step], ...; 4 .. 7 to `high`.
template <int W, int O = 0>
GTQ_INLINE void expand_unit(const LevelTable<W>& table, const std::uint8_t* unit, Levels* low, Levels* high,
                            int step) {
  (O < 4 ? low : high)[O % 4 * step] = unpack<W, O>(table, unit);
  if constexpr (O < 7) expand_unit<W, O + 1>(table, unit, low, high, step);
}

// Half page of keys -> levels[head_dim_k / 4 quads][2 blocks of 16 cells].
template <template <int> class Table>
void expand_keys(const HeadTables& head, const std::uint8_t* codes, const std::uint8_t* next, Levels* levels) {
  for (int g = 0; g < head.head_dim_k / 16; ++g) {
    const std::size_t offset = head.group_offset[g];
    for (int w = 0; w < head.widths[g]; ++w) prefetch(next + offset + kWordStride * w);
    with_width(head.widths[g], [&](auto width) {
      expand_unit<width.value>(Table<width.value>(head.codes[width.value]), codes + offset, levels + 8 * g,
                               levels + 8 * g + 1, 2);
    });
  }
}

// 16 dims of values of all pages of the tile -> levels[quads of 4 cells * step].
template <template <int> class Table>
void expand_values(const PageJob& job, const Tile& tile, int unit, Levels* levels, int step) {
  const HeadTables& head = *job.head;
  const std::ptrdiff_t ahead = kPagesAhead * job.page_step * static_cast<std::ptrdiff_t>(job.value_page_stride);
  with_width(head.v_width, [&](auto width) {
    constexpr int kW = width.value;
    const Table<kW> table(head.codes[kW]);
    for (int t = 0; t < tile.n_pages; ++t) {
      const std::uint8_t* codes =
          job.value_pages + tile.pages[t] * job.value_page_stride + 2 * unit * kW * kWordStride;
      for (int half = 0; half < 2; ++half, codes += kW * kWordStride, levels += 8 * step) {
        for (int w = 0; w < kW; ++w) prefetch(codes + ahead + kWordStride * w);
        expand_unit<kW>(table, codes, levels, levels + 4 * step, step);
      }
    }
  });
}
