// Mean keys added to expanded keys, exact in f32, and the phases that both forms of the mean term need
// (kernel_api.h).

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

// cos and sin of theta_i * position for kLanes rope_blocks.
GTQ_INLINE void phase_vectors(const double* turns, double position, vf* cos_out, vf* sin_out) {
  alignas(64) float f[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) f[lane] = reduced_turns(turns[lane], position);
  cos_sin_turns(load<vf>(f), cos_out, sin_out);
}

// The same for n rope_blocks, n a multiple of 16.
void phases(const double* turns, double position, int n, float* cos_out, float* sin_out) {
  for (int i = 0; i < n; i += kLanes) {
    vf c, s;
    phase_vectors(turns + i, position, &c, &s);
    store(cos_out + i, c);
    store(sin_out + i, s);
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
