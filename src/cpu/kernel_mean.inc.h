// The mean-key part of the logits, Re sum_i conj(q_i) mu_i e^{i theta_i t}, exact in f32. Regular pages by a
// constant basis (MeanTables in kernel_api.h); a row is a (page of the tile, pair):
//
//   per page  phases of its middle, by a turn of those of the page before
//   per row   c_i turned by them; smooth rope_blocks -> 8 even and 8 odd polynomial coefficients
//   per row   [re of fast ones, even coefficients] x even basis, [im, odd] x odd basis -> sum and difference
//
// Real and imaginary parts, and even and odd coefficients, stand side by side: one load puts a pair into all
// lanes for both. At 128 dims with all rope_blocks centred and base 5e5 a row takes about 240 instructions that
// multiply 8 lanes, below 4 per cell.
//
// Other pages: cosines and sines of every cell's position, times (re, im) of the products conj(q_i) mu_i.

// Phases of one page after another. Pages whose starts are a step apart turn the phases of the page before;
// after kMostTurns of that the error, 6e-8 per turn, is still that of paired_phases(), which begins anew.
struct PhaseWalk {
  static constexpr int kMostTurns = 16;
  std::int32_t start = 0, step = 0;
  const float* phase = nullptr;  // of the page before, which may be where the new ones go
  int turns_left = 0;
};

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

PhaseWalk start_walk(const PageJob& job) {
  const MeanTables& mean = job.head->mean;
  PhaseWalk walk;
  walk.step = static_cast<std::int32_t>(job.page_step * kPageCells);
  paired_phases(mean, walk.step, job.scratch.phase_step);
  return walk;
}

// Phases of the middle of the page that starts at `start`, to `phase`.
void walk_to(const PageJob& job, std::int32_t start, PhaseWalk* walk, float* phase) {
  const MeanTables& mean = job.head->mean;
  if (walk->turns_left > 0 && start == walk->start + walk->step) {
    const int n = 2 * mean.n_padded;
    const float *before = walk->phase, *step = job.scratch.phase_step;
    for (int i = 0; i < n; i += kLanes) {
      const vf c = load<vf>(before + i), s = load<vf>(before + n + i);
      const vf dc = load<vf>(step + i), ds = load<vf>(step + n + i);
      store(phase + i, c * dc - s * ds);
      store(phase + n + i, s * dc + c * ds);
    }
    --walk->turns_left;
  } else {
    paired_phases(mean, start + (kPageCells - 1) / 2.0, phase);
    walk->turns_left = PhaseWalk::kMostTurns;
  }
  walk->start = start;
  walk->phase = phase;
}

// sums[r] = sum over n rows of a table times the next kBlocks turned pairs, again and again, for R (page, pair)
// rows; n is a multiple of 4 / kBlocks.
template <int R, int kBlocks>
GTQ_INLINE void sum_orders(const float* table, int n, const float* turned, std::size_t stride,
                           vf (&sums)[R][kVecs]) {
  constexpr int kEnough = R * kVecs >= 8 ? 1 : R * kVecs >= 4 ? 2 : 4;  // sums to hide their latency
  constexpr int kSets = kEnough < 4 / kBlocks ? kEnough : 4 / kBlocks;
  vf all[kSets][R][kVecs] = {};
  for (int i = 0; i < n; i += kSets) {
    GTQ_UNROLL
    for (int set = 0; set < kSets; ++set) {
      vf row[kVecs];
      GTQ_UNROLL
      for (int v = 0; v < kVecs; ++v) row[v] = load<vf>(table + (i + set) * kChebyshev + v * kLanes);
      GTQ_UNROLL
      for (int r = 0; r < R; ++r) {
        const float* at = turned + r * stride + 2 * kBlocks * (i + set);
        const vf factor = kBlocks == 1 ? splat_pair(at) : splat_four(at);
        GTQ_UNROLL
        for (int v = 0; v < kVecs; ++v) all[set][r][v] += factor * row[v];
      }
    }
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      sums[r][v] = all[0][r][v];
      GTQ_UNROLL
      for (int set = 1; set < kSets; ++set) sums[r][v] += all[set][r][v];
    }
  }
}

// Adds up the two rope_blocks of a sum of low orders, lanes [a0 a1 b0 b1 | a2 a3 b2 b3 | ...], and adds
// orders 0 .. 7 to out.
GTQ_INLINE void add_low_orders(const vf (&sums)[kVecs], float* out) {
  vi other, first;
  for (int i = 0; i < kLanes; ++i) {
    const int half = i % (kLanes / 2);
    other[i] = i ^ 2;
    first[i] = i / (kLanes / 2) * kLanes + half / 2 * 4 + half % 2;
  }
  vf both[kVecs + 1] = {};
  GTQ_UNROLL
  for (int v = 0; v < kVecs; ++v) both[v] = sums[v] + __builtin_shuffle(sums[v], other);
  GTQ_UNROLL
  for (int v = 0; v < kVecs; v += 2) {
    float* to = out + v / 2 * kLanes;
    store(to, load<vf>(to) + __builtin_shuffle(both[v], both[v + 1], first));
  }
}

// Coefficients of the polynomials that R rows' smooth rope_blocks add up to.
template <int R>
void smooth_coefficients(const MeanTables& mean, const float* turned, std::size_t stride, float* out,
                         std::size_t out_stride) {
  vf sums[R][kVecs];
  sum_orders<R, 1>(mean.all_orders, mean.n_high, turned, stride, sums);
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) store(out + r * out_stride + v * kLanes, sums[r][v]);
  }
  sum_orders<R, 2>(mean.low_orders, mean.n_low / 2, turned + 2 * mean.n_high, stride, sums);
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) add_low_orders(sums[r], out + r * out_stride);
}

void all_smooth_coefficients(const PageJob& job, int n_rows, std::size_t out_stride) {
  const MeanTables& mean = job.head->mean;
  const std::size_t stride = 2 * (mean.n_padded - mean.fast_padded);
  for_blocks<kLanes == 16 ? 8 : 4>(n_rows, [&](auto rows, int row) {
    smooth_coefficients<rows.value>(mean, job.scratch.smooth + row * stride, stride,
                                    job.scratch.factors + row * out_stride + 2 * mean.fast_rows, out_stride);
  });
}

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
void add_parts(const MeanTables& mean, const float* factors, std::size_t stride, int panel, float* const* out) {
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
    float* row = out[r];
    GTQ_UNROLL
    for (int v = 0; v < kVectors; ++v) {
      const int x = panel * kPanel + v * kLanes;
      store(row + kHalfPage + x, sums[0][r][v] + sums[1][r][v]);
      store(row + kHalfPage - kLanes - x, reversed(sums[0][r][v] - sums[1][r][v]));
    }
  }
}

template <int R>
void add_both_panels(const MeanTables& mean, const float* factors, std::size_t stride, float* const* out) {
  if constexpr (4 * R * kVecs <= kMaxSums) {
    add_parts<R, 2>(mean, factors, stride, 0, out);
  } else {
    for (int panel = 0; panel < 2; ++panel) add_parts<R, 1>(mean, factors, stride, panel, out);
  }
}

GTQ_INLINE std::size_t factor_stride(const MeanTables& mean) { return 2 * mean.fast_padded + kChebyshev; }

// out[m] = c[m] * (cos + i sin) for `n` numbers of n_pairs pairs (query row, head): the rope_blocks' (re, im).
GTQ_INLINE void turn(int n_pairs, int n, const float* c, std::size_t c_stride, const float* cosine,
                     const float* sine, float* out, std::size_t out_stride) {
  vi swap;
  for (int i = 0; i < kLanes; ++i) swap[i] = i ^ 1;
  for (int i = 0; i < n; i += kLanes) {
    const vf cos_i = load<vf>(cosine + i), sin_i = load<vf>(sine + i);
    for (int m = 0; m < n_pairs; ++m) {
      const vf c_i = load<vf>(c + m * c_stride + i);
      store(out + m * out_stride + i, c_i * cos_i + __builtin_shuffle(c_i, swap) * sin_i);
    }
  }
}

constexpr std::size_t page_phases(const MeanTables& mean) { return 4 * mean.n_padded; }

// Rows first_row .. + n: c of mean index `c` and of pairs m .. m + n, turned by `phase`. The 64 logits of pair
// m + i are to go to out + i * out_stride.
void turn_rows(const PageJob& job, const float* phase, int c, int m, int n, int first_row, float* out,
               std::size_t out_stride) {
  const MeanTables& mean = job.head->mean;
  const Scratch& s = job.scratch;
  const std::size_t n_numbers = 2 * mean.n_padded, stride = factor_stride(mean);
  const std::size_t n_pairs = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  const int n_fast = 2 * mean.fast_padded, n_smooth = 2 * mean.n_padded - n_fast;
  const float *cosine = phase, *sine = phase + n_numbers, *from = s.mean_c + (c * n_pairs + m) * n_numbers;
  turn(n, n_fast, from, n_numbers, cosine, sine, s.factors + first_row * stride, stride);
  turn(n, n_smooth, from + n_fast, n_numbers, cosine + n_fast, sine + n_fast, s.smooth + first_row * n_smooth,
       n_smooth);
  for (int i = 0; i < n; ++i) s.mean_out[first_row + i] = out + i * out_stride;
}

// Mean terms of the turned rows, to where they are to go.
void finish_rows(const PageJob& job, int n_rows) {
  const MeanTables& mean = job.head->mean;
  const Scratch& s = job.scratch;
  const std::size_t stride = factor_stride(mean);
  if (mean.n_smooth > 0) all_smooth_coefficients(job, n_rows, stride);
  for_blocks<kLanes == 16 ? 4 : 3>(n_rows, [&](auto rows, int row) {
    add_both_panels<rows.value>(mean, s.factors + row * stride, stride, s.mean_out + row);
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

// For the rare page with keys of both means: replaces the logits of those of the first by their own.
void replace_first_means(const PageJob& job, const PageView& view, const float* phase, float* logits) {
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  if (view.start.regular) {
    for (int m = 0; m < n; m += kMeanRows) {
      const int n_rows = n - m < kMeanRows ? n - m : kMeanRows;
      turn_rows(job, phase, 0, m, n_rows, 0, s.mean0 + m * kPageCells, kPageCells);
      finish_rows(job, n_rows);
    }
  } else {
    exact_terms(job, view, 0, s.mean0, kPageCells);
  }
  for (int m = 0; m < n; ++m) {
    float* row = logits + m * kTileCells;
    for (int j = 0; j < kPageCells; j += kLanes) {
      const vf both =
          load<vi>(view.first_mean + j) != 0 ? load<vf>(s.mean0 + m * kPageCells + j) : load<vf>(row + j);
      store(row + j, both);
    }
  }
}

// The mean terms of all pairs and cells of the tile, to scratch.logits. Some pairs take all pages of the tile
// before the next ones come, so that what is theirs stays in the first cache.
void mean_terms(const PageJob& job, const Tile& tile, PhaseWalk* walk) {
  const MeanTables& mean = job.head->mean;
  if (mean.n_padded == 0) return;
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  for (int t = 0; t < tile.n_pages; ++t) {
    if (tile.views[t].start.regular) {
      walk_to(job, tile.views[t].start.start, walk, s.phase + t * page_phases(mean));
    } else {
      exact_terms(job, tile.views[t], last_mean(tile.views[t]), s.logits + t * kPageCells, kTileCells);
    }
  }
  constexpr int kPairs = kMeanRows / kTilePages;
  for (int m = 0; m < n; m += kPairs) {
    const int n_pairs = n - m < kPairs ? n - m : kPairs;
    int n_rows = 0;
    for (int t = 0; t < tile.n_pages; ++t) {
      if (!tile.views[t].start.regular) continue;
      turn_rows(job, s.phase + t * page_phases(mean), last_mean(tile.views[t]), m, n_pairs, n_rows,
                s.logits + static_cast<std::size_t>(m) * kTileCells + t * kPageCells, kTileCells);
      n_rows += n_pairs;
    }
    finish_rows(job, n_rows);
  }
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    if (!view.any_mean[0] || !view.any_mean[1]) continue;
    replace_first_means(job, view, s.phase + t * page_phases(mean), s.logits + t * kPageCells);
  }
}
