// The mean-key part of the logits, q^T R_t mu_c, exact in f32 (kernel_api.h; docs/architecture.md).

struct PageView {
  std::int64_t page;
  PageStart start;
  int n_cells;
  alignas(64) float blank[kPageCells];  // 0 for occupied cells, -inf for empty ones
  alignas(64) float key_norm[kPageCells];
  alignas(64) float value_norm[kPageCells];
  alignas(64) std::int32_t first_mean[kPageCells];  // -1 where the mean index is 0
  bool any_mean[2];
  bool plain;              // every cell is occupied and every mask is 0; then no masks were written
  int row_begin, row_end;  // query rows that attend some cell of the page
};

// cos and sin of theta_i * position for n rope_blocks, n a multiple of 16.
void phases(const double* turns, double position, int n, float* cos_out, float* sin_out) {
  for (int i = 0; i < n; i += kLanes) {
    alignas(64) float f[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) f[lane] = reduced_turns(turns[i + lane], position);
    vf c, s;
    cos_sin_turns(load<vf>(f), &c, &s);
    store(cos_out + i, c);
    store(sin_out + i, s);
  }
}

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
  v8f sums[kSets][2][R] = {};
  for (int i = 0; i < n; i += kSets) {
    GTQ_UNROLL
    for (int set = 0; set < kSets; ++set) {
      const v8f cosine = load<v8f>(table + (i + set) * kChebyshev);
      const v8f sine = load<v8f>(table + (i + set) * kChebyshev + kChebyshev / 2);
      GTQ_UNROLL
      for (int r = 0; r < R; ++r) {
        sums[set][0][r] += re[r * stride + i + set] * cosine;
        sums[set][1][r] += im[r * stride + i + set] * sine;
      }
    }
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    for (int set = 1; set < kSets; ++set) {
      sums[0][0][r] += sums[set][0][r];
      sums[0][1][r] += sums[set][1][r];
    }
    store(even + r * out_stride, sums[0][0][r]);
    store(odd + r * out_stride, sums[0][1][r]);
  }
}

void all_smooth_coefficients(const PageJob& job, int n_pairs, std::size_t out_stride) {
  const MeanByLogit& mean = job.head->by_logit;
  const Scratch& s = job.scratch;
  const int n = (mean.n_smooth + 3) / 4 * 4;
  const std::size_t stride = mean.n_padded - mean.fast_padded;
  for (int m = 0; m < n_pairs;) {
    const float *re = s.smooth_re + m * stride, *im = s.smooth_im + m * stride;
    float *even = s.even + m * out_stride + mean.fast_rows, *odd = s.odd + m * out_stride + mean.fast_rows;
    if (n_pairs - m >= 4) {
      smooth_coefficients<4>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      m += 4;
    } else if (n_pairs - m >= 2) {
      smooth_coefficients<2>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      m += 2;
    } else {
      smooth_coefficients<1>(re, im, n, stride, mean.chebyshev, even, odd, out_stride);
      m += 1;
    }
  }
}

#if defined(__AVX512F__)
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
               float* out, std::size_t out_stride) {
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
    float* row = out + r * out_stride;
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
                     float* out, std::size_t out_stride) {
  if constexpr (4 * R * kVecs <= kMaxSums) {
    add_parts<R, 2>(mean, even, odd, stride, 0, out, out_stride);
  } else {
    for (int panel = 0; panel < 2; ++panel) {
      add_parts<R, 1>(mean, even, odd, stride, panel, out, out_stride);
    }
  }
}

// out[m][64 cells] of a regular page for mean index c; scratch.phase is at the middle of the page.
void mean_logits(const PageJob& job, int c, int n, float* out, std::size_t out_stride) {
  const MeanByLogit& mean = job.head->by_logit;
  const Scratch& s = job.scratch;
  const int n_padded = mean.n_padded, fast_padded = mean.fast_padded, n_smooth = n_padded - fast_padded;
  const std::size_t stride = fast_padded + kPanel;
  const float *cosine = s.phase, *sine = s.phase + n_padded;
  for (int m = 0; m < n; ++m) {
    const float* re = s.mean_c + (c * n + m) * 2 * n_padded;
    const float* im = re + n_padded;
    turn(re, im, cosine, sine, fast_padded, s.even + m * stride, s.odd + m * stride);
    turn(re + fast_padded, im + fast_padded, cosine + fast_padded, sine + fast_padded, n_smooth,
         s.smooth_re + m * n_smooth, s.smooth_im + m * n_smooth);
  }
  if (n_smooth > 0) all_smooth_coefficients(job, n, stride);
  for (int m = 0; m < n;) {
    const float *even = s.even + m * stride, *odd = s.odd + m * stride;
    float* row = out + m * out_stride;
    if (n - m == 1) {
      add_both_panels<1>(mean, even, odd, stride, row, out_stride);
      m += 1;
    } else if (n - m == 2 || n - m == 4) {
      add_both_panels<2>(mean, even, odd, stride, row, out_stride);
      m += 2;
    } else {
      add_both_panels<3>(mean, even, odd, stride, row, out_stride);
      m += 3;
    }
  }
}

// The mean term of n pairs and the 64 cells of a regular page, to logits[m * kTileCells + cell].
void mean_terms(const PageJob& job, const PageView& view, int n, PhaseWalk* walk, float* logits) {
  const Scratch& s = job.scratch;
  walk_to(job, view.start.start, walk);
  mean_logits(job, view.any_mean[1] ? 1 : 0, n, logits, kTileCells);
  if (!view.any_mean[0] || !view.any_mean[1]) return;
  mean_logits(job, 0, n, s.mean0, kPageCells);
  for (int m = 0; m < n; ++m) {
    float* row = logits + m * kTileCells;
    for (int j = 0; j < kPageCells; j += kLanes) {
      const vf both =
          load<vi>(view.first_mean + j) != 0 ? load<vf>(s.mean0 + m * kPageCells + j) : load<vf>(row + j);
      store(row + j, both);
    }
  }
}

GTQ_INLINE void hadamard16(vf (&x)[16]) {
  GTQ_UNROLL
  for (int half = 1; half < 16; half *= 2) {
    GTQ_UNROLL
    for (int i = 0; i < 16; ++i) {
      if ((i & half) != 0) continue;
      const vf a = x[i], b = x[i + half];
      x[i] = a + b;
      x[i + half] = a - b;
    }
  }
}

// Angles of kLanes keys for slot pair p: the page's phase times the table, or exactly from each position.
GTQ_INLINE void key_angles(const PageJob& job, const PageView& view, int p, int n_pairs, int cell, vf* c,
                           vf* s) {
  const MeanByTile& mean = job.head->by_tile;
  if (view.start.regular) {
    const float* table =
        mean.cos_sin + (static_cast<std::size_t>(cell / kPanel) * n_pairs + p) * 2 * kPanel + cell % kPanel;
    const vf tc = load<vf>(table), ts = load<vf>(table + kPanel);
    const float pc = job.scratch.phase[p], ps = job.scratch.phase[mean.n_padded + p];
    *c = tc * pc - ts * ps;
    *s = ts * pc + tc * ps;
    return;
  }
  alignas(64) float f[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int j = cell + lane;
    const std::int32_t position = j < view.n_cells ? job.positions[view.page * kPageCells + j] : 0;
    f[lane] = reduced_turns(mean.turns[p], position);
  }
  cos_sin_turns(load<vf>(f), c, s);
}

// tile = norm * tile + rotated mean, for the 32 keys of a half page (2 panels of [head_dim_k][16]).
void finish_tile(const PageJob& job, const PageView& view, int half, float* tile) {
  const HeadTables& head = *job.head;
  const MeanByTile& mean = head.by_tile;
  const int n_pairs = head.head_dim_k / 2;
  for (int at = 0; at < kHalfPage; at += kLanes) {
    const int cell = half * kHalfPage + at;
    const vf norm = load<vf>(view.key_norm + cell);
    const vi first = load<vi>(view.first_mean + cell);
    float* column = tile + static_cast<std::size_t>(at / kPanel) * head.head_dim_k * kPanel + at % kPanel;
    for (int g = 0; g < head.head_dim_k / 16; ++g, column += 16 * kPanel) {
      if (mean.group_centred[g] == 0) {
        for (int i = 0; i < 16; ++i) store(column + i * kPanel, norm * load<vf>(column + i * kPanel));
        continue;
      }
      vf x[16];
      for (int i = 0; i < 8; ++i) {
        const int p = 8 * g + i;
        vf c, s;
        key_angles(job, view, p, n_pairs, cell, &c, &s);
        const vf re = first != 0 ? splat(mean.mean_re[p]) : splat(mean.mean_re[n_pairs + p]);
        const vf im = first != 0 ? splat(mean.mean_im[p]) : splat(mean.mean_im[n_pairs + p]);
        x[2 * i] = (re * c - im * s) * mean.gain[2 * p];
        x[2 * i + 1] = (re * s + im * c) * mean.gain[2 * p + 1];
      }
      hadamard16(x);
      GTQ_UNROLL
      for (int i = 0; i < 16; ++i) store(column + i * kPanel, norm * load<vf>(column + i * kPanel) + x[i]);
    }
  }
}
