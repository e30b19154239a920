// Where the sums of both ways to multiply (kernel_few.inc.h, kernel_many.inc.h) go.

// Logits of kN pairs and the cells of half a page.
struct LogitsTo {
  const float* steps;  // [kN]
  const float* norms;  // [32]
  float* logits;       // rows of kTileCells
};

GTQ_INLINE LogitsTo logits_to(const Scratch& s, const PageView& view, int half, int m, float* logits) {
  return {s.query_step + m, view.key_norm + half * kHalfPage,
          logits + static_cast<std::size_t>(m) * kTileCells + half * kHalfPage};
}

// Cells first_cell .. +16; `add` to mean terms that are there already.
template <int kN>
GTQ_INLINE void store_logits(const LogitsTo& to, const Sums (&sums)[kN], int first_cell, bool add) {
  GTQ_UNROLL
  for (int i = 0; i < kN; ++i) {
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      const int cell = first_cell + v * kLanes;
      float* logits = to.logits + i * kTileCells + cell;
      const vf dots = sums_as_floats(sums[i], v) * (load<vf>(to.norms + cell) * to.steps[i]);
      store(logits, add ? dots + load<vf>(logits) : dots);
    }
  }
}

// Dims 16 unit .. +16 of the outputs of pairs m .. m + kN.
template <int kN>
GTQ_INLINE void add_outputs(const PageJob& job, const Sums (&sums)[kN], int m, int unit) {
  GTQ_UNROLL
  for (int i = 0; i < kN; ++i) {
    float* out = job.out + static_cast<std::size_t>(m + i) * job.head->head_dim_v + 16 * unit;
    const float scale = job.scratch.row_scale[m + i], step = job.scratch.weight_step[m + i];
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      store(out + v * kLanes, load<vf>(out + v * kLanes) * scale + sums_as_floats(sums[i], v) * step);
    }
  }
}
