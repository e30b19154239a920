// Attention of (query row, head) pairs over the pages of one work item, in integers on the packed codes, with
// an online softmax per tile of up to four attended pages.
//
//   once       query -> 16-bit numbers with one step per pair, as quads: [head_dim_k / 4][pairs]
//   per page   norms, masks; no cell attended: the page is left out of the tile
//   per tile   mean terms -> logits[pair][tile cell]                                  kernel_mean.inc.h
//   per page   logits (+)= query * levels * norm * step                               kernel_few, kernel_many
//   per tile   softcap, mask, running maximum; weights p_j * value norm_j -> 16-bit numbers with one step per
//              pair and tile, as quads: [tile cells / 4][pairs]
//   per tile   out = out * scale + weights * levels * step                            kernel_few, kernel_many
//
// With AMX kernel_tiles.inc.h takes the place of kernel_many, and many pairs' numbers have its own form.
//
// Accuracy: query and weights have 15 bits and a sign; their rounding is the only error beyond f32. Relative L2
// against double on the same bytes below 2e-4, tested at 3e-4 (tests/cpu).

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

// Updates row_max and row_scale; returns the maximum of the tile.
float raise_maximum(const PageJob& job, const Tile& tile, int m) {
  const float before = job.row_max[m], top = finish_logits(job, tile, m, job.scratch.logits + m * kTileCells);
  const float now = top > before ? top : before;
  job.row_max[m] = now;
  job.scratch.row_scale[m] = before == now ? 1.0f : exp_nonpositive(splat(before - now))[0];
  return top;
}

// Logits of row m become weights; updates row_sum. Returns the weights' units, 0 where `top` says that there
// are none. Dot products of weights that fit 16 bits fit 32.
static_assert(128.0f * kMaxQuantized * kTileCells < kMaxSum);
float exponentiate(const PageJob& job, const Tile& tile, int m, float top) {
  float* logits = job.scratch.logits + m * kTileCells;
  const float now = job.row_max[m], sum_before = job.row_sum[m] * job.scratch.row_scale[m];
  job.row_sum[m] = sum_before;
  if (top == -kInfinity) {
    for (int j = 0; j < tile.n_pages * kPageCells; ++j) logits[j] = 0.0f;
    return 0.0f;
  }
  vf sum{}, largest = splat(1e-30f);
  for (int t = 0; t < tile.n_pages; ++t) {
    for (int j = 0; j < kPageCells; j += kLanes) {
      float* at = logits + t * kPageCells + j;
      const vf p = exp_floored(load<vf>(at) - now);
      const vf weight = p * load<vf>(tile.views[t].value_norm + j);
      sum += p;
      largest = max(largest, weight);
      store(at, weight);
    }
  }
  job.row_sum[m] = sum_before + lane_sum(sum);
  return kMaxQuantized / lane_max(largest);
}

// Weights of rows m .. m + n as quads. Step by step for all of them: a row alone waits for its maximum and its
// sum.
constexpr int kSoftmaxRows = 4;
void softmax_rows(const PageJob& job, const Tile& tile, int m, int n) {
  const Scratch& s = job.scratch;
  const std::size_t n_pairs = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  float tops[kSoftmaxRows], scales[kSoftmaxRows];
  for (int i = 0; i < n; ++i) tops[i] = raise_maximum(job, tile, m + i);
  for (int i = 0; i < n; ++i) scales[i] = exponentiate(job, tile, m + i, tops[i]);
  for (int i = 0; i < n; ++i) {
    s.weight_step[m + i] = scales[i] > 0.0f ? 1.0f / scales[i] : 0.0f;
    pack_row(s.logits + (m + i) * kTileCells, tile.n_pages * kPageCells, scales[i], m + i, n_pairs,
             s.weight_quads, s.weight_bias);
  }
}

// ---- tiles

// Pages are fetched some pages before they are read (kPagesAhead). Those of the first tiles would be late: they
// are asked for here, keys or values of a tile between other work, since a core drops part of what is too much
// at once. Always inline: GCC 12 takes a function that only prefetches for one that does nothing.
GTQ_INLINE void prefetch_pages(const std::uint8_t* first, std::ptrdiff_t step, std::size_t last) {
  for (int t = 0; t < kTilePages; ++t, first += step) {
    for (std::size_t i = 0; i <= last; i += kWordStride) prefetch_ahead(first + i);
  }
}
GTQ_INLINE void prefetch_keys(const PageJob& job, std::int64_t page) {
  const std::ptrdiff_t stride = job.key_page_stride;
  prefetch_pages(job.key_pages + page * stride, job.page_step * stride, job.head->key_norm_offset);
}
GTQ_INLINE void prefetch_values(const PageJob& job, std::int64_t page) {
  const std::ptrdiff_t stride = job.value_page_stride;
  prefetch_pages(job.value_pages + page * stride, job.page_step * stride, job.head->value_norm_offset);
}

void tile_logits(const PageJob& job, const Tile& tile) {
  const int n = job.n_rows * job.n_heads;
  const bool add = job.head->mean.n_padded > 0;
  for (int t = 0; t < tile.n_pages; ++t) {
    const PageView& view = tile.views[t];
    const std::uint8_t* keys = job.key_pages + view.page * job.key_page_stride;
    float* logits = job.scratch.logits + t * kPageCells;
    if (n > kBlockPairs) {
      many_keys(job, view, keys, logits, add);
      continue;
    }
    with_constant<kBlockPairs>(n, [&](auto size) { few_keys<size.value>(job, view, keys, logits, add); });
  }
}

void tile_values(const PageJob& job, const Tile& tile) {
  for (int t = 0; t < tile.n_pages; ++t) {
    const std::int64_t ahead = tile.pages[t] + kPagesAhead * job.page_step;
    prefetch(job.value_pages + ahead * job.value_page_stride + job.head->value_norm_offset);
  }
  const int n = job.n_rows * job.n_heads;
  if (n > kBlockPairs) return many_values(job, tile);
  with_constant<kBlockPairs>(n, [&](auto size) {
    with_width(job.head->v_width, [&](auto width) { few_values<width.value, size.value>(job, tile); });
  });
}

void finish_tile(const PageJob& job, const Tile& tile, MeanWalk* walk) {
  const bool first = kPagesAhead > kTilePages && tile.pages[0] == job.first_page;
  const std::int64_t next = job.first_page + kTilePages * job.page_step;
  mean_terms(job, tile, walk);
  if (first) prefetch_keys(job, next);
  tile_logits(job, tile);
  const int n = job.n_rows * job.n_heads;
  for (int m = 0; m < n; m += kSoftmaxRows)
    softmax_rows(job, tile, m, n - m < kSoftmaxRows ? n - m : kSoftmaxRows);
  if (first) prefetch_values(job, next);
  tile_values(job, tile);
}

// Puts the page into the tile unless no row attends any of its cells.
void add_page(const PageJob& job, std::int64_t page, Tile* tile) {
  PageView& view = tile->views[tile->n_pages];
  view.page = page;
  if (!load_cells(job, &view) || !load_masks(job, job.scratch.mask + tile->n_pages * kPageCells, &view)) return;
  load_norms(job, job.key_pages + page * job.key_page_stride, job.value_pages + page * job.value_page_stride,
             &view);
  tile->pages[tile->n_pages++] = page;
}

// ---- one work item

void clear_state(const PageJob& job) {
  const std::size_t n = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  for (std::size_t m = 0; m < n; ++m) {
    job.row_max[m] = -kInfinity;
    job.row_sum[m] = 0.0f;
  }
  for (std::size_t i = 0; i < n * job.head->head_dim_v; ++i) job.out[i] = 0.0f;
}

void attend_tiles(const PageJob& job) {
  const std::int64_t n_pages = (job.kv_len + kPageCells - 1) / kPageCells;
  clear_state(job);
  prefetch_keys(job, job.first_page);
  prepare_pairs(job);
  prefetch_values(job, job.first_page);
  MeanWalk walk = start_walk(job);
  Tile tile;
  tile.n_pages = 0;
  for (std::int64_t page = job.first_page; page < n_pages; page += job.page_step) {
    add_page(job, page, &tile);
    if (tile.n_pages == kTilePages) {
      finish_tile(job, tile, &walk);
      tile.n_pages = 0;
    }
  }
  if (tile.n_pages > 0) finish_tile(job, tile, &walk);
}
