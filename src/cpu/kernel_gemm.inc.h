// c[m][16 p + n] = sum_k a[m][k] * b[panel p][k][n], f32: accumulators stay in registers, one row of a panel
// is loaded and one number of `a` broadcast per row. Panels are the outer loop, so a panel stays in L1 while
// all rows pass.

struct Gemm {
  int n_rows, n_panels, k;
  const float* a;
  std::size_t a_stride;
  const float* b;
  std::size_t panel_stride;
  float* c;
  std::size_t c_stride;
};

#if defined(__AVX512F__)
constexpr int kMaxRows = 12;
#elif defined(__AVX__) || defined(__aarch64__)
constexpr int kMaxRows = 6;
#else
constexpr int kMaxRows = 3;
#endif

template <int R, int P>
void gemm_block(const Gemm& g, int row, int panel) {
  const float* __restrict a = g.a + row * g.a_stride;
  const float* __restrict b = g.b + panel * g.panel_stride;
  const std::size_t a_stride = g.a_stride, panel_stride = g.panel_stride;
  // Few accumulators would wait for each other: then even and odd k have their own. k is even.
  constexpr int kSets = R * P * kVecs < 8 ? 2 : 1;
  vf sets[kSets][R][P * kVecs] = {};
  for (int k = 0; k < g.k; k += kSets) {
    GTQ_UNROLL
    for (int set = 0; set < kSets; ++set) {
      vf column[P * kVecs];
      GTQ_UNROLL
      for (int v = 0; v < P * kVecs; ++v) {
        column[v] = load<vf>(b + v / kVecs * panel_stride + v % kVecs * kLanes + set * kPanel);
      }
      GTQ_UNROLL
      for (int r = 0; r < R; ++r) {
        const vf x = splat(a[r * a_stride + set]);
        GTQ_UNROLL
        for (int v = 0; v < P * kVecs; ++v) sets[set][r][v] += x * column[v];
      }
    }
    a += kSets;
    b += kSets * kPanel;
  }
  GTQ_UNROLL
  for (int r = 0; r < R; ++r) {
    float* c = g.c + (row + r) * g.c_stride + panel * kPanel;
    GTQ_UNROLL
    for (int v = 0; v < P * kVecs; ++v) {
      vf result = sets[0][r][v];
      if constexpr (kSets == 2) result += sets[1][r][v];
      store(c + v * kLanes, result);
    }
  }
}

template <int R>
void gemm_rows(const Gemm& g, int row, int panel, int n_panels) {
  if constexpr (2 * R <= kMaxRows) {
    if (n_panels == 2) return gemm_block<R, 2>(g, row, panel);
  }
  for (int p = 0; p < n_panels; ++p) gemm_block<R, 1>(g, row, panel + p);
}

template <int R = kMaxRows>
void gemm_dispatch(const Gemm& g, int n, int row, int panel, int n_panels) {
  if constexpr (R > 1) {
    if (n < R) return gemm_dispatch<R - 1>(g, n, row, panel, n_panels);
  }
  gemm_rows<R>(g, row, panel, n_panels);
}

void gemm(const Gemm& g) {
  if (g.n_rows <= 0) return;
  const int n_blocks = (g.n_rows + kMaxRows - 1) / kMaxRows;
  const int rows = g.n_rows / n_blocks, extra = g.n_rows % n_blocks;  // the first `extra` blocks have one more
  for (int panel = 0; panel < g.n_panels; panel += 2) {
    const int n_panels = g.n_panels - panel < 2 ? g.n_panels - panel : 2;
    for (int i = 0, row = 0; i < n_blocks; ++i) {
      const int n = rows + (i < extra ? 1 : 0);
      gemm_dispatch(g, n, row, panel, n_panels);
      row += n;
    }
  }
}
