// The mean-key part of the logits, Re sum_i conj(q_i) mu_i e^{i theta_i t}, exact in f32. Regular pages by a
// constant basis (MeanTables in kernel_api.h); a row is a (page of the tile, pair):
//
//   per tile  c_i = conj(q_i) mu_i turned on to the last page of it
//   per row   c_i turned from the tile before to the middle of the page, by 1 .. 4 steps; smooth rope_blocks ->
//             8 even and 8 odd polynomial coefficients
//   per row   [re of fast ones, even coefficients] x even basis, [im, odd] x odd basis -> sum and difference
//
// Real and imaginary parts, and even and odd coefficients, stand side by side: one shuffle puts a pair into all
// lanes for both. At 128 dims with all rope_blocks centred and base 5e5 a row takes about 230 instructions that
// multiply 8 lanes, below 4 per cell.
//
// Other pages: cosines and sines of every cell's position, times (re, im) of the products conj(q_i) mu_i.

// Both numbers of each pair are that lane: lanes 0, 0, 1, 1, ... in two vectors.
GTQ_INLINE void store_twice(float* to, vf x) {
  vi low, high;
  for (int i = 0; i < kLanes; ++i) {
    low[i] = i / 2;
    high[i] = kLanes / 2 + i / 2;
  }
  store(to, __builtin_shuffle(x, low));
  store(to + kLanes, __builtin_shuffle(x, high));
}

// cos and sin of theta_i * position for kLanes rope_blocks.
GTQ_INLINE void phase_vectors(const double* turns, double position, vf* cos_out, vf* sin_out) {
  alignas(64) float f[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) f[lane] = reduced_turns(turns[lane], position);
  cos_sin_turns(load<vf>(f), cos_out, sin_out);
}

// (cos, cos) of all rope_blocks at a position, then (-sin, sin).
void paired_phases(const MeanTables& mean, double position, float* out) {
  float* sine = out + 2 * mean.n_padded;
  vf signs;
  for (int i = 0; i < kLanes; ++i) signs[i] = i % 2 == 0 ? -1.0f : 1.0f;
  for (int i = 0; i < mean.n_padded; i += kLanes) {
    vf c, s;
    phase_vectors(mean.turns + i, position, &c, &s);
    store_twice(out + 2 * i, c);
    store_twice(sine + 2 * i, s);
  }
  for (int i = 0; i < 2 * mean.n_padded; i += kLanes) store(sine + i, signs * load<vf>(sine + i));
}

constexpr std::size_t page_phases(const MeanTables& mean) { return 4 * mean.n_padded; }

// What the mean terms of one pair and page are made of.
struct MeanRow {
  const float *c, *cosine, *sine;  // c and the phases that turn it to the middle of the page
  float* out;                      // [64]
};

// Numbers i .. i + kLanes of the turned c of a row.
GTQ_INLINE vf turned(const MeanRow& row, int i) {
  const vf c = load<vf>(row.c + i);
  return c * load<vf>(row.cosine + i) + exchanged<1>(c) * load<vf>(row.sine + i);
}

// ---- smooth rope_blocks

constexpr int kSmoothRows = kLanes == 16 ? 4 : 2;  // whose sums stay in registers

// sums[r] += rows of a table times numbers kFirst .. kLast of x[r], kBlocks pairs of them at a time.
template <int R, int kBlocks, int kFirst, int kLast>
GTQ_INLINE void add_orders(const float* table, const vf (&x)[R], vf (&sums)[R][kVecs]) {
  constexpr int kNumbers = 2 * kBlocks;
  GTQ_UNROLL
  for (int k = 0; k < (kLast - kFirst) / kNumbers; ++k) {
    vi group;
    for (int i = 0; i < kLanes; ++i) group[i] = kFirst + k * kNumbers + i % kNumbers;
    vf row[kVecs];
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) row[v] = load<vf>(table + k * kChebyshev + v * kLanes);
    GTQ_UNROLL
    for (int r = 0; r < R; ++r) {
      const vf factor = __builtin_shuffle(x[r], group);
      GTQ_UNROLL
      for (int v = 0; v < kVecs; ++v) sums[r][v] += factor * row[v];
    }
  }
}

// Adds up the two rope_blocks of a sum of low orders, lanes [a0 a1 b0 b1 | a2 a3 b2 b3 | ...], and adds
// them to orders 0 .. 7.
GTQ_INLINE void add_low_orders(const vf (&low)[kVecs], vf (&orders)[kVecs]) {
  vi other, first;
  for (int i = 0; i < kLanes; ++i) {
    const int half = i % (kLanes / 2);
    other[i] = i ^ 2;
    first[i] = i / (kLanes / 2) * kLanes + half / 2 * 4 + half % 2;
  }
  vf both[kVecs + 1] = {};
  GTQ_UNROLL
  for (int v = 0; v < kVecs; ++v) both[v] = low[v] + __builtin_shuffle(low[v], other);
  GTQ_UNROLL
  for (int v = 0; v < kVecs; v += 2) orders[v / 2] += __builtin_shuffle(both[v], both[v + 1], first);
}

// Coefficients of the polynomials that the smooth rope_blocks of R rows add up to.
template <int R>
void smooth_coefficients(const MeanTables& mean, const MeanRow* rows, float* out, std::size_t out_stride) {
  const int first = 2 * mean.fast_padded, n_high = 2 * mean.n_high, n = n_high + 2 * mean.n_low;
  vf high[R][kVecs] = {}, low[R][kVecs] = {};
  const float *all_orders = mean.all_orders, *low_orders = mean.low_orders;
  for (int i = 0; i < n; i += kLanes) {
    vf x[R];
    GTQ_UNROLL
    for (int r = 0; r < R; ++r) x[r] = turned(rows[r], first + i);
    if (i + kLanes <= n_high) {
      add_orders<R, 1, 0, kLanes>(all_orders, x, high);
      all_orders += kLanes / 2 * kChebyshev;
    } else if (i >= n_high) {
      add_orders<R, 2, 0, kLanes>(low_orders, x, low);
      low_orders += kLanes / 4 * kChebyshev;
    } else if constexpr (kLanes == 16) {
      add_orders<R, 1, 0, 8>(all_orders, x, high);
      add_orders<R, 2, 8, 16>(low_orders, x, low);
      low_orders += 2 * kChebyshev;
    }
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    add_low_orders(low[r], high[r]);
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) store(out + r * out_stride + v * kLanes, high[r][v]);
  }
}

// ---- from factors to logits

constexpr int kPartRows = kLanes == 16 ? 4 : 3;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMaxSums = 16;  // vectors that stay in registers with the rows they are multiplied by
#else
constexpr int kMaxSums = 12;
#endif

GTQ_INLINE vf reversed(vf x) {
  vi index;
  for (int i = 0; i < kLanes; ++i) index[i] = kLanes - 1 - i;
  return __builtin_shuffle(x, index);
}

// Even and odd parts of R pairs at 16 kPanels distances from the middle of the page, and the logits on both
// sides.
template <int R, int kPanels>
void add_parts(const MeanTables& mean, const float* factors, std::size_t stride, int panel,
               const MeanRow* rows) {
  constexpr int kVectors = kPanels * kVecs;
  const std::size_t panel_stride = static_cast<std::size_t>(mean.n_basis) * kPanel;
  const float* const bases[2] = {mean.even + panel * panel_stride, mean.odd + panel * panel_stride};
  vf sums[2][R][kVectors] = {};
  for (int k = 0; k < mean.n_basis; ++k) {
    GTQ_UNROLL
    for (int part = 0; part < 2; ++part) {
      vf row[kVectors];
      GTQ_UNROLL
      for (int v = 0; v < kVectors; ++v) {
        row[v] = load<vf>(bases[part] + v / kVecs * panel_stride + k * kPanel + v % kVecs * kLanes);
      }
      GTQ_UNROLL
      for (int r = 0; r < R; ++r) {
        const vf factor = splat(factors[r * stride + 2 * k + part]);
        GTQ_UNROLL
        for (int v = 0; v < kVectors; ++v) sums[part][r][v] += factor * row[v];
      }
    }
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    float* row = rows[r].out;
    GTQ_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int x = panel * kPanel + v * kLanes;
      store(row + kHalfPage + x, sums[0][r][v] + sums[1][r][v]);
      store(row + kHalfPage - kLanes - x, reversed(sums[0][r][v] - sums[1][r][v]));
    }
  }
}

template <int R>
void add_both_panels(const MeanTables& mean, const float* factors, std::size_t stride, const MeanRow* rows) {
  if constexpr (4 * R * kVecs <= kMaxSums) {
    add_parts<R, 2>(mean, factors, stride, 0, rows);
  } else {
    for (int panel = 0; panel < 2; ++panel) add_parts<R, 1>(mean, factors, stride, panel, rows);
  }
}

// Mean terms of some rows, to where they are to go.
void add_rows(const PageJob& job, const MeanRow* rows, int n_rows) {
  const MeanTables& mean = job.head->mean;
  const std::size_t stride = 2 * mean.fast_padded + kChebyshev;
  float* factors = job.scratch.factors;
  for (int r = 0; r < n_rows; ++r) {
    for (int i = 0; i < 2 * mean.fast_rows; i += kLanes) store(factors + r * stride + i, turned(rows[r], i));
  }
  if (mean.n_smooth > 0) {
    for_blocks<kSmoothRows>(n_rows, [&](auto size, int r) {
      smooth_coefficients<size.value>(mean, rows + r, factors + r * stride + 2 * mean.fast_rows, stride);
    });
  }
  for_blocks<kPartRows>(n_rows, [&](auto size, int r) {
    add_both_panels<size.value>(mean, factors + r * stride, stride, rows + r);
  });
}

// The mean of the page's keys, the second where there are both.
GTQ_INLINE int last_mean(const PageView& view) { return view.any_mean[1] ? 1 : 0; }

// The mean terms of one page whose positions do not follow each other, to out[m * stride].
void exact_terms(const PageJob& job, const PageView& view, int c, float* out, std::size_t stride) {
  const MeanTables& mean = job.head->mean;
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads, n_numbers = 2 * mean.n_padded;
  const std::size_t panel = static_cast<std::size_t>(n_numbers) * kPanel;
  for (int half = 0; half < 2; ++half) {
    for (int j = 0; j < kHalfPage; j += kLanes) {
      float* column = s.angles + j / kPanel * panel + j % kPanel;
      double position[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) {
        const int cell = half * kHalfPage + j + lane;
        position[lane] = cell < view.n_cells ? job.positions[view.page * kPageCells + cell] : 0;
      }
      for (int i = 0; i < mean.n_padded; ++i, column += 2 * kPanel) {
        alignas(64) float turns[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) turns[lane] = reduced_turns(mean.turns[i], position[lane]);
        vf cosine, sine;
        cos_sin_turns(load<vf>(turns), &cosine, &sine);
        store(column, cosine);
        store(column + kPanel, -sine);
      }
    }
    gemm({.n_rows = n,
          .n_panels = 2,
          .k = n_numbers,
          .a = s.mean_c + static_cast<std::size_t>(c) * n * n_numbers,
          .a_stride = static_cast<std::size_t>(n_numbers),
          .b = s.angles,
          .panel_stride = panel,
          .c = out + half * kHalfPage,
          .c_stride = stride});
  }
}

// ---- pages

// The products c of all pairs with the second mean, turned to the middle of the page before the next one.
// Pages some steps after it take them turned by phases that never change. The error grows by 6e-8 per turn;
// after kMostTurns it is still that of paired_phases(), which begins anew.
struct MeanWalk {
  static constexpr int kMostTurns = 16;
  std::int32_t start = 0, step = 0;
  int turns_left = 0;
};

MeanWalk start_walk(const PageJob& job) {
  const MeanTables& mean = job.head->mean;
  MeanWalk walk;
  walk.step = static_cast<std::int32_t>(job.page_step * kPageCells);
  for (int k = 0; k < kTilePages; ++k) {
    paired_phases(mean, (k + 1.0) * walk.step, job.scratch.step_phases + k * page_phases(mean));
  }
  return walk;
}

// Phases of the middle of the page that starts at `start`.
void middle_phases(const PageJob& job, std::int32_t start, float* out) {
  paired_phases(job.head->mean, start + (kPageCells - 1) / 2.0, out);
}

// walked_c of all pairs = c turned by `phase`; c may be walked_c.
void turn_all(const PageJob& job, const float* c, const float* phase) {
  const int n = 2 * job.head->mean.n_padded;
  for (int m = 0; m < job.n_rows * job.n_heads; ++m) {
    const MeanRow row = {c + static_cast<std::size_t>(m) * n, phase, phase + n, nullptr};
    for (int i = 0; i < n; i += kLanes)
      store(job.scratch.walked_c + static_cast<std::size_t>(m) * n + i, turned(row, i));
  }
}

// c of pair 0 and the phases that turn those of all pairs to the middle of a page.
struct PageTurn {
  const float *c, *phase;
};

const float* products(const PageJob& job, int mean_index) {
  const std::size_t n_pairs = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  return job.scratch.mean_c + mean_index * n_pairs * 2 * job.head->mean.n_padded;
}

// Steps from the walk to a page, 0 if it does not lead there.
int steps_to(const MeanWalk& walk, std::int32_t start) {
  const std::int64_t distance = static_cast<std::int64_t>(start) - walk.start;
  if (walk.turns_left == 0 || distance <= 0 || distance > kTilePages * walk.step) return 0;
  return distance % walk.step == 0 ? static_cast<int>(distance / walk.step) : 0;
}

// The walk begins anew before the page that starts at `start`; `phase` is room for phases.
void begin_walk(const PageJob& job, std::int32_t start, float* phase, MeanWalk* walk) {
  walk->start = start - walk->step;
  walk->turns_left = MeanWalk::kMostTurns;
  middle_phases(job, walk->start, phase);
  turn_all(job, products(job, 1), phase);
}

// How to turn c to a regular page; `phase` is room for its phases. `steps` are those of the walk in this tile.
PageTurn turn_to(const PageJob& job, const PageView& view, float* phase, MeanWalk* walk, int* steps) {
  const std::int32_t start = view.start.start;
  if (last_mean(view) == 1) {
    if (*steps == 0 && steps_to(*walk, start) == 0) begin_walk(job, start, phase, walk);
    const int n = steps_to(*walk, start);
    if (n > 0) {
      *steps = n;
      return {job.scratch.walked_c, job.scratch.step_phases + (n - 1) * page_phases(job.head->mean)};
    }
  }
  middle_phases(job, start, phase);
  return {products(job, last_mean(view)), phase};
}

// Pairs m .. of a page that add to `rows`, their logits in rows of `stride`.
int fill_rows(const PageJob& job, const PageTurn& turn, int m, int n_pairs, float* out, std::size_t stride,
              MeanRow* rows) {
  const std::size_t n = 2 * job.head->mean.n_padded;
  for (int i = 0; i < n_pairs; ++i)
    rows[i] = {turn.c + (m + i) * n, turn.phase, turn.phase + n, out + (m + i) * stride};
  return n_pairs;
}

// For the rare page with keys of both means: replaces the logits of those of the first by their own.
void replace_first_means(const PageJob& job, const PageView& view, float* phase, float* logits) {
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  if (view.start.regular) {
    middle_phases(job, view.start.start, phase);
    MeanRow rows[kMeanRows];
    for (int m = 0; m < n; m += kMeanRows) {
      const int n_pairs = n - m < kMeanRows ? n - m : kMeanRows;
      add_rows(job, rows, fill_rows(job, {products(job, 0), phase}, m, n_pairs, s.mean0, kPageCells, rows));
    }
  } else {
    exact_terms(job, view, 0, s.mean0, kPageCells);
  }
  const std::uint8_t* norms = job.key_pages + view.page * job.key_page_stride + job.head->key_norm_offset;
  for (int j = 0; j < kPageCells; j += kLanes) {
    const vi second = reinterpret_cast<vi>(load_bytes_to_lanes(norms + j)) & kSecondMean;
    for (int m = 0; m < n; ++m) {
      float* row = logits + m * kTileCells + j;
      store(row, second != 0 ? load<vf>(row) : load<vf>(s.mean0 + m * kPageCells + j));
    }
  }
}

// The mean terms of all pairs and cells of the tile, to scratch.logits. Some pairs take all pages of the tile
// before the next ones come, so that what is theirs stays in the first cache.
void mean_terms(const PageJob& job, const Tile& tile, MeanWalk* walk) {
  const MeanTables& mean = job.head->mean;
  if (mean.n_padded == 0) return;
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  PageTurn turns[kTilePages];
  int steps = 0;
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    if (view.start.regular) {
      turns[t] = turn_to(job, view, s.phase + t * page_phases(mean), walk, &steps);
    } else {
      exact_terms(job, view, last_mean(view), s.logits + t * kPageCells, kTileCells);
    }
  }
  constexpr int kPairs = kMeanRows / kTilePages;
  for (int m = 0; m < n; m += kPairs) {
    const int n_pairs = n - m < kPairs ? n - m : kPairs;
    MeanRow rows[kMeanRows];
    int n_rows = 0;
    for (int t = 0; t < tile.n_pages; ++t) {
      if (!tile.views[t].start.regular) continue;
      n_rows += fill_rows(job, turns[t], m, n_pairs, s.logits + t * kPageCells, kTileCells, rows + n_rows);
    }
    add_rows(job, rows, n_rows);
  }
  if (steps > 0) {
    turn_all(job, s.walked_c, s.step_phases + (steps - 1) * page_phases(mean));
    walk->start += steps * walk->step;
    --walk->turns_left;
  }
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    if (!view.any_mean[0] || !view.any_mean[1]) continue;
    replace_first_means(job, view, s.phase + t * page_phases(mean), s.logits + t * kPageCells);
  }
}
