// Attention of (query row, head) pairs over the pages of one work item, in integers on the packed codes,
// with an online softmax per tile of up to four attended pages. Needs one of the dot_*.inc.h.
//
//   once       query -> 16-bit numbers with one step per pair, as quads: [head_dim_k / 4][pairs]
//   per page   norms, masks; no cell attended: the page is left out of the tile
//   per page   logits of 16 cells at a time: sums of all pairs of a block in registers, each unit unpacked once
//              per block, (sum * norm * step + mean term) -> logits[pair][tile cell]
//   per tile   softcap, mask, running maximum; weights p_j * value norm_j -> 16-bit numbers with one step per
//              pair and tile, as quads: [tile cells / 4][pairs]
//   per tile   16 dims of values at a time: sums over the whole tile in registers,
//              out = out * scale + sum * step
//
// Accuracy: query and weights have 15 bits and a sign; their rounding is the only error beyond f32. Relative L2
// against double on the same bytes below 2e-4, tested at 3e-4 (tests/cpu). Keys of pages whose positions do not
// follow each other go through kernel_page.inc.h in f32.

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

// Where the logits of 16 or 32 cells of kN pairs come from and go to.
struct KeyBlock {
  const std::uint8_t *codes, *next;  // half page; the half page to prefetch, or null
  const Quad* quads;
  std::size_t stride;  // of quads: all pairs
  const Bias* bias;
  const float* steps;
  const float* norms;
  float* logits;
};

template <int kN>
using KeySums = Sums[kSumSets<kN>][kN];

// Slots 4 kSlots .. 16 of a unit and the 16-cell blocks kFirst .. kFirst + kBlocks of its half page.
template <int W, int kSlots, int kFirst, int kBlocks, int kN>
GTQ_INLINE void add_key_unit(const LevelTable<W>& table, const std::uint8_t* unit, const Quad* quads,
                             std::size_t stride, KeySums<kN> (&sums)[kBlocks]) {
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
    add_key_unit<W, kSlots + 1, kFirst, kBlocks, kN>(table, unit, quads + stride, stride, sums);
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
    if (block.next != nullptr) {
      for (int w = 0; w < W; ++w) __builtin_prefetch(block.next + offset + kWordStride * w, 0, 3);
    }
    add_key_unit<W, 0, kFirst, kBlocks, kN>(table, block.codes + offset, block.quads + 4 * g * block.stride,
                                            block.stride, sums);
  }
}

template <int kN>
GTQ_INLINE void store_logits(const KeyBlock& block, const KeySums<kN>& sums, int first_cell, bool add) {
  GTQ_UNROLL
  for (int i = 0; i < kN; ++i) {
    GTQ_UNROLL
    for (int v = 0; v < kVecs; ++v) {
      const int cell = first_cell + v * kLanes;
      float* logits = block.logits + i * kTileCells + cell;
      const vf dots = sums_as_floats(sums[0][i], v) * (load<vf>(block.norms + cell) * block.steps[i]);
      store(logits, add ? dots + load<vf>(logits) : dots);
    }
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
    store_logits<kN>(block, sums[b], kPanel * (kFirst + b), add);
  }
}

template <int kN>
void key_page(const PageJob& job, const PageView& view, const std::uint8_t* keys, const std::uint8_t* next,
              int m, float* logits, bool add) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  for (int half = 0; half < 2; ++half) {
    const std::size_t offset = half * head.half_bytes;
    KeyBlock block = {keys + offset,
                      next == nullptr ? nullptr : next + offset,
                      s.query_quads + m,
                      static_cast<std::size_t>(job.n_rows) * job.n_heads,
                      static_cast<const Bias*>(s.query_bias) + m,
                      s.query_step + m,
                      view.key_norm + half * kHalfPage,
                      logits + m * kTileCells + half * kHalfPage};
    if constexpr (kKeyBlocks<kN> == 2) {
      key_block<0, 2, kN>(head, block, add);
    } else {
      key_block<0, 1, kN>(head, block, add);
      block.next = nullptr;
      key_block<1, 1, kN>(head, block, add);
    }
  }
}

// ---- values

// Outputs O .. 8 of a unit times the quads of kN pairs; output O belongs to quads[0].
template <int W, int O, int kN>
GTQ_INLINE void add_value_unit(const LevelTable<W>& table, const std::uint8_t* unit, const Quad* quads,
                               std::size_t stride, Sums (&sums)[kSumSets<kN>][kN]) {
  const Levels levels = unpack<W, O>(table, unit);
  GTQ_UNROLL
  for (int i = 0; i < kN; ++i) add_dots(sums[O % kSumSets<kN>][i], levels, everywhere(quads + i));
  if constexpr (O < 7) add_value_unit<W, O + 1, kN>(table, unit, quads + stride, stride, sums);
}

// Pairs m .. m + kN, all dims, all pages of the tile; `ahead` is the number of bytes to the page to prefetch.
template <int W, int kN>
void value_tile(const PageJob& job, const Tile& tile, int m, std::ptrdiff_t ahead) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const std::size_t stride = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  const LevelTable<W> table(head.codes[W]);
  constexpr std::size_t kUnitBytes = W * kWordStride;
  for (int unit = 0; unit < head.head_dim_v / 16; ++unit) {
    Sums sums[kSumSets<kN>][kN];
    start_all<kN>(static_cast<const Bias*>(s.weight_bias) + m, sums);
    const Quad* quads = s.weight_quads + m;
    for (int t = 0; t < tile.n_pages; ++t) {
      const std::uint8_t* codes =
          job.value_pages + tile.pages[t] * job.value_page_stride + 2 * unit * kUnitBytes;
      for (int half = 0; half < 2; ++half, codes += kUnitBytes, quads += 8 * stride) {
        for (int w = 0; ahead != 0 && w < W; ++w) __builtin_prefetch(codes + ahead + kWordStride * w, 0, 3);
        add_value_unit<W, 0, kN>(table, codes, quads, stride, sums);
      }
    }
    join_sets<kN>(sums);
    GTQ_UNROLL
    for (int i = 0; i < kN; ++i) {
      float* out = job.out + static_cast<std::size_t>(m + i) * head.head_dim_v + 16 * unit;
      const float scale = s.row_scale[m + i], step = s.weight_step[m + i];
      GTQ_UNROLL
      for (int v = 0; v < kVecs; ++v) {
        store(out + v * kLanes, load<vf>(out + v * kLanes) * scale + sums_as_floats(sums[0][i], v) * step);
      }
    }
  }
}

template <int kN>
void value_block(const PageJob& job, const Tile& tile, int m, std::ptrdiff_t ahead) {
  switch (job.head->v_width) {
    case 1:
      return value_tile<1, kN>(job, tile, m, ahead);
    case 2:
      return value_tile<2, kN>(job, tile, m, ahead);
    case 3:
      return value_tile<3, kN>(job, tile, m, ahead);
    case 4:
      return value_tile<4, kN>(job, tile, m, ahead);
    case 5:
      return value_tile<5, kN>(job, tile, m, ahead);
    default:
      return value_tile<6, kN>(job, tile, m, ahead);
  }
}

// ---- quantized operands

constexpr float kMaxQuantized = 32639.0f;  // 127 * 256 + 127
constexpr float kMaxSum = 2147000000.0f;

// Numbers per unit such that n numbers with these bounds fit 16 bits each and their dot product with levels 32.
float quantizer_scale(float largest, float sum_of_magnitudes) {
  const float by_number = kMaxQuantized / largest, by_sum = kMaxSum / (128.0f * sum_of_magnitudes);
  return by_number < by_sum ? by_number : by_sum;
}

void quantize_queries(const PageJob& job) {
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads, head_dim = job.head->head_dim_k;
  for (int m = 0; m < n; ++m) {
    const float* query = s.query + static_cast<std::size_t>(m) * head_dim;
    float largest = 1e-30f, sum = 1e-30f;
    for (int i = 0; i < head_dim; ++i) {
      const float magnitude = __builtin_fabsf(query[i]);
      largest = magnitude > largest ? magnitude : largest;
      sum += magnitude;
    }
    const float scale = quantizer_scale(largest, sum);
    s.query_step[m] = kLevelUnit / scale;
    static_cast<Bias*>(s.query_bias)[m] = pack_quads(query, head_dim, scale, s.query_quads + m, n);
  }
}

// ---- softmax

// Logits of row m with softcap and masks; returns their maximum.
GTQ_INLINE float finish_logits(const PageJob& job, const Tile& tile, int m, float* logits) {
  const float slope = job.slopes == nullptr ? 1.0f : job.slopes[m % job.n_heads];
  const float* masks = job.scratch.mask + static_cast<std::size_t>(m / job.n_heads) * kTileCells;
  const float cap = job.logit_softcap;
  vf top = splat(-kInfinity);
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    const float* mask = job.mask == nullptr ? view.blank : masks + t * kPageCells;
    for (int j = 0; j < kPageCells; j += kLanes) {
      float* at = logits + t * kPageCells + j;
      vf x = load<vf>(at);
      if (cap > 0.0f) x = cap * tanh_of(x * (1.0f / cap));
      if (!view.plain) x += slope * load<vf>(mask + j);
      if (cap > 0.0f || !view.plain) store(at, x);
      top = max(top, x);
    }
  }
  return lane_max(top);
}

// Weights of row m as quads; updates row_max, row_sum and row_scale.
void softmax_tile(const PageJob& job, const Tile& tile, int m) {
  const Scratch& s = job.scratch;
  float* logits = s.logits + m * kTileCells;
  const int n_cells = tile.n_pages * kPageCells;
  const std::size_t n_pairs = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  const float before = job.row_max[m], top = finish_logits(job, tile, m, logits);
  const float now = top > before ? top : before;
  job.row_max[m] = now;
  s.row_scale[m] = before == now ? 1.0f : exp_nonpositive(splat(before - now))[0];
  float scale = 0.0f;
  if (top != -kInfinity) {
    vf sum{}, largest = splat(1e-30f), total = splat(1e-30f);
    for (int t = 0; t < tile.n_pages; ++t) {
      for (int j = 0; j < kPageCells; j += kLanes) {
        float* at = logits + t * kPageCells + j;
        const vf p = exp_floored(load<vf>(at) - now);
        const vf weight = p * load<vf>(tile.views[t].value_norm + j);
        sum += p;
        total += weight;
        largest = max(largest, weight);
        store(at, weight);
      }
    }
    job.row_sum[m] = job.row_sum[m] * s.row_scale[m] + lane_sum(sum);
    scale = quantizer_scale(lane_max(largest), lane_sum(total));
  } else {
    for (int j = 0; j < n_cells; ++j) logits[j] = 0.0f;
    job.row_sum[m] *= s.row_scale[m];
  }
  s.weight_step[m] = scale > 0.0f ? kLevelUnit / scale : 0.0f;
  static_cast<Bias*>(s.weight_bias)[m] = pack_quads(logits, n_cells, scale, s.weight_quads + m, n_pairs);
}

// ---- tiles

void tile_logits(const PageJob& job, const Tile& tile, PhaseWalk* walk) {
  const int n = job.n_rows * job.n_heads;
  const bool add = job.head->by_logit.n_padded > 0;
  mean_terms(job, tile, walk);
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    const std::uint8_t* keys = job.key_pages + view.page * job.key_page_stride;
    float* logits = job.scratch.logits + t * kPageCells;
    if (!view.start.regular) {
      const LogitsTo to = {logits, kTileCells};
      compute_logits(job, view, keys, keys, 0, n, to);
      continue;
    }
    for_blocks<kBlockPairs>(n, [&](auto size, int m) {
      const std::uint8_t* next = m == 0 ? keys + kTilePages * job.page_step * job.key_page_stride : nullptr;
      key_page<size.value>(job, view, keys, next, m, logits, add);
    });
  }
}

void finish_tile_of_pages(const PageJob& job, const Tile& tile, PhaseWalk* walk) {
  const int n = job.n_rows * job.n_heads;
  tile_logits(job, tile, walk);
  for (int m = 0; m < n; ++m) softmax_tile(job, tile, m);
  const std::ptrdiff_t ahead = kTilePages * job.page_step * static_cast<std::ptrdiff_t>(job.value_page_stride);
  for_blocks<kBlockPairs>(n,
                          [&](auto size, int m) { value_block<size.value>(job, tile, m, m == 0 ? ahead : 0); });
}

// Puts the page into the tile unless no row attends any of its cells.
void add_page(const PageJob& job, std::int64_t page, Tile* tile) {
  PageView& view = tile->views[tile->n_pages];
  view.page = page;
  const std::int64_t ahead = page + kTilePages * job.page_step;
  __builtin_prefetch(job.key_pages + ahead * job.key_page_stride + job.head->key_norm_offset, 0, 3);
  __builtin_prefetch(job.value_pages + ahead * job.value_page_stride + job.head->value_norm_offset, 0, 3);
  if (!load_cells(job, &view) ||
      !load_masks(job, job.scratch.mask + tile->n_pages * kPageCells, kTileCells, &view)) {
    return;
  }
  load_norms(job, job.key_pages + page * job.key_page_stride, job.value_pages + page * job.value_page_stride,
             &view);
  tile->pages[tile->n_pages++] = page;
}

void attend_tiles(const PageJob& job) {
  clear_state(job);
  quantize_queries(job);
  PhaseWalk walk = start_walk(job);
  Tile tile;
  tile.n_pages = 0;
  const std::int64_t n_pages = (job.kv_len + kPageCells - 1) / kPageCells;
  for (std::int64_t page = job.first_page; page < n_pages; page += job.page_step) {
    add_page(job, page, &tile);
    if (tile.n_pages == kTilePages) {
      finish_tile_of_pages(job, tile, &walk);
      tile.n_pages = 0;
    }
  }
  if (tile.n_pages > 0) finish_tile_of_pages(job, tile, &walk);
}
