// The mean-key part of the logits of few pairs: Re sum_i conj(q_i) mu_i e^{i theta_i t} for the cells of
// regular pages, by a constant basis (MeanByLogit in kernel_api.h), exact in f32. A row is a (page of the tile,
// pair):
//
//   per page  phases of its middle, by a turn of those of the page before
//   per row   c_i turned by them; smooth rope_blocks -> 8 even and 8 odd polynomial coefficients
//   per row   [re of fast ones, even coefficients] x even basis, [im, odd] x odd basis -> sum and difference
//
// At 128 dims with all rope_blocks centred and base 5e5 a row takes 252 multiply-adds of 8 lanes, 4 per cell.

struct Tile {
  int n_pages;
  std::int64_t pages[kTilePages];
  PageView views[kTilePages];
};

// Phases of one page after another. Pages whose starts are a step apart turn the phases of the page before;
// after kMostTurns of that the error, 6e-8 per turn, is still that of phases(), which begins anew.
struct PhaseWalk {
  static constexpr int kMostTurns = 16;
  std::int32_t start = 0, step = 0;
  int turns_left = 0;
};

PhaseWalk start_walk(const PageJob& job) {
  const MeanByLogit& mean = job.head->by_logit;
  PhaseWalk walk;
  walk.step = static_cast<std::int32_t>(job.page_step * kPageCells);
  phases(mean.turns, walk.step, mean.n_padded, job.scratch.phase_step, job.scratch.phase_step + mean.n_padded);
  return walk;
}

// scratch.phase = phases of the middle of the page that starts at `start`.
void walk_to(const PageJob& job, std::int32_t start, PhaseWalk* walk) {
  const MeanByLogit& mean = job.head->by_logit;
  float *cosine = job.scratch.phase, *sine = cosine + mean.n_padded;
  if (walk->turns_left > 0 && start == walk->start + walk->step) {
    const float *step_cosine = job.scratch.phase_step, *step_sine = step_cosine + mean.n_padded;
    for (int i = 0; i < mean.n_padded; i += kLanes) {
      const vf c = load<vf>(cosine + i), s = load<vf>(sine + i);
      const vf dc = load<vf>(step_cosine + i), ds = load<vf>(step_sine + i);
      store(cosine + i, c * dc - s * ds);
      store(sine + i, s * dc + c * ds);
    }
    --walk->turns_left;
  } else {
    phases(mean.turns, start + (kPageCells - 1) / 2.0, mean.n_padded, cosine, sine);
    walk->turns_left = PhaseWalk::kMostTurns;
  }
  walk->start = start;
}

// re + i im = c * (cos + i sin) for n rope_blocks.
GTQ_INLINE void turn(const float* c_re, const float* c_im, const float* cosine, const float* sine, int n,
                     float* re, float* im) {
  for (int i = 0; i < n; i += kLanes) {
    const vf a = load<vf>(c_re + i), b = load<vf>(c_im + i), c = load<vf>(cosine + i), s = load<vf>(sine + i);
    store(re + i, a * c - b * s);
    store(im + i, a * s + b * c);
  }
}

// Coefficients of the polynomials that R pairs' smooth rope_blocks add up to: sums over n rope_blocks, n a
// multiple of 4; pairs are `stride` apart.
template <int R>
void smooth_coefficients(const float* re, const float* im, int n, std::size_t stride, const float* table,
                         float* even, float* odd, std::size_t out_stride) {
  constexpr int kSets = R == 1 ? 4 : R == 2 ? 2 : 1;  // enough sums to hide the latency of an addition
  constexpr int kParts = kChebyshev / 2 / kFewLanes;  // vectors of cosines, and as many of sines
  vfew sums[kSets][2][kParts][R] = {};
  for (int i = 0; i < n; i += kSets) {
    GTQ_UNROLL
    for (int set = 0; set < kSets; ++set) {
      const float *cosine = table + (i + set) * kChebyshev, *sine = cosine + kChebyshev / 2;
      GTQ_UNROLL
      for (int part = 0; part < kParts; ++part) {
        const vfew c = load<vfew>(cosine + part * kFewLanes), s = load<vfew>(sine + part * kFewLanes);
        GTQ_UNROLL
        for (int r = 0; r < R; ++r) {
          sums[set][0][part][r] += re[r * stride + i + set] * c;
          sums[set][1][part][r] += im[r * stride + i + set] * s;
        }
      }
    }
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    GTQ_UNROLL
    for (int part = 0; part < kParts; ++part) {
      for (int set = 1; set < kSets; ++set) {
        sums[0][0][part][r] += sums[set][0][part][r];
        sums[0][1][part][r] += sums[set][1][part][r];
      }
      store(even + r * out_stride + part * kFewLanes, sums[0][0][part][r]);
      store(odd + r * out_stride + part * kFewLanes, sums[0][1][part][r]);
    }
  }
}

void all_smooth_coefficients(const PageJob& job, int n_rows, std::size_t out_stride) {
  const MeanByLogit& mean = job.head->by_logit;
  const Scratch& s = job.scratch;
  const int n = (mean.n_smooth + 3) / 4 * 4;
  const std::size_t stride = mean.n_padded - mean.fast_padded;
  for (int row = 0; row < n_rows;) {
    const float *re = s.smooth_re + row * stride, *im = s.smooth_im + row * stride;
    float *even = s.even + row * out_stride + mean.fast_rows, *odd = s.odd + row * out_stride + mean.fast_rows;
    if (n_rows - row >= 4) {
      smooth_coefficients<4>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      row += 4;
    } else if (n_rows - row >= 2) {
      smooth_coefficients<2>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      row += 2;
    } else {
      smooth_coefficients<1>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      row += 1;
    }
  }
}

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kMaxSums = 24;  // vectors that stay in registers
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
void add_parts(const MeanByLogit& mean, const float* even, const float* odd, std::size_t stride, int panel,
               float* const* out) {
  constexpr int kVectors = kPanels * kVecs;
  const std::size_t panel_stride = static_cast<std::size_t>(mean.n_basis) * kPanel;
  const float* const bases[2] = {mean.even + panel * panel_stride, mean.odd + panel * panel_stride};
  const float* const factors[2] = {even, odd};
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
        const vf factor = splat(factors[part][r * stride + k]);
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
void add_both_panels(const MeanByLogit& mean, const float* even, const float* odd, std::size_t stride,
                     float* const* out) {
  if constexpr (4 * R * kVecs <= kMaxSums) {
    add_parts<R, 2>(mean, even, odd, stride, 0, out);
  } else {
    for (int panel = 0; panel < 2; ++panel) add_parts<R, 1>(mean, even, odd, stride, panel, out);
  }
}

// Rows first_row .. + n: c of mean index `c` and of each pair, turned to the page of scratch.phase. Pair m's 64
// logits are to go to out + m * out_stride.
void turn_rows(const PageJob& job, int c, int n, int first_row, float* out, std::size_t out_stride) {
  const MeanByLogit& mean = job.head->by_logit;
  const Scratch& s = job.scratch;
  const int n_padded = mean.n_padded, fast_padded = mean.fast_padded, n_smooth = n_padded - fast_padded;
  const std::size_t stride = fast_padded + kPanel;
  const float *cosine = s.phase, *sine = s.phase + n_padded;
  for (int m = 0; m < n; ++m) {
    const int row = first_row + m;
    const float* re = s.mean_c + (c * n + m) * 2 * n_padded;
    const float* im = re + n_padded;
    turn(re, im, cosine, sine, fast_padded, s.even + row * stride, s.odd + row * stride);
    turn(re + fast_padded, im + fast_padded, cosine + fast_padded, sine + fast_padded, n_smooth,
         s.smooth_re + row * n_smooth, s.smooth_im + row * n_smooth);
    s.mean_out[row] = out + m * out_stride;
  }
}

// Mean terms of the turned rows, to where they are to go.
void finish_rows(const PageJob& job, int n_rows) {
  const MeanByLogit& mean = job.head->by_logit;
  const Scratch& s = job.scratch;
  const std::size_t stride = mean.fast_padded + kPanel;
  if (mean.n_smooth > 0) all_smooth_coefficients(job, n_rows, stride);
  for (int row = 0; row < n_rows;) {
    const float *even = s.even + row * stride, *odd = s.odd + row * stride;
    if (n_rows - row == 1) {
      add_both_panels<1>(mean, even, odd, stride, s.mean_out + row);
      row += 1;
    } else if (n_rows - row == 2 || n_rows - row == 4) {
      add_both_panels<2>(mean, even, odd, stride, s.mean_out + row);
      row += 2;
    } else {
      add_both_panels<3>(mean, even, odd, stride, s.mean_out + row);
      row += 3;
    }
  }
}

// For the rare page with keys of both means: replaces the logits of those of the first by their own.
void replace_first_means(const PageJob& job, const PageView& view, int n, float* logits) {
  const Scratch& s = job.scratch;
  turn_rows(job, 0, n, 0, s.mean0, kPageCells);
  finish_rows(job, n);
  for (int m = 0; m < n; ++m) {
    float* row = logits + m * kTileCells;
    for (int j = 0; j < kPageCells; j += kLanes) {
      const vf both =
          load<vi>(view.first_mean + j) != 0 ? load<vf>(s.mean0 + m * kPageCells + j) : load<vf>(row + j);
      store(row + j, both);
    }
  }
}

// The mean terms of all pairs and cells of the tile's regular pages, to scratch.logits.
void mean_terms(const PageJob& job, const Tile& tile, PhaseWalk* walk) {
  if (job.head->by_logit.n_padded == 0) return;
  const int n = job.n_rows * job.n_heads;
  int n_rows = 0;
  bool mixed = false;
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    if (!view.start.regular) continue;
    walk_to(job, view.start.start, walk);
    turn_rows(job, view.any_mean[1] ? 1 : 0, n, n_rows, job.scratch.logits + t * kPageCells, kTileCells);
    mixed |= view.any_mean[0] && view.any_mean[1];
    n_rows += n;
  }
  finish_rows(job, n_rows);
  for (int t = 0; mixed && t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    if (!view.start.regular || !view.any_mean[0] || !view.any_mean[1]) continue;
    walk->turns_left = 0;
    walk_to(job, view.start.start, walk);
    replace_first_means(job, view, n, job.scratch.logits + t * kPageCells);
  }
}
