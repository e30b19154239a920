// Attention of many query rows over the pages of one work item, in f32 on expanded tiles, one page after
// another, with an online softmax; also the parts that integer decoding (kernel_decode.inc.h) has in common
// with it.
//
//   per page   norms, masks -> which query rows attend it at all; none: the page is not touched
//   per half   units -> key tile [2 panels][head_dim_k][16 keys] (16 KiB at 128 dims), logits += query * tile
//   per row    softcap, mask, running maximum; logits -> weights p_j * value norm_j
//   per 32 dims of values  units -> value tile [2 panels][64 keys][16 dims], out = out * scale + weights * tile
//
// Accuracy: all sums in f32; relative L2 against double on the same bytes below 1e-4 (tests/cpu).

constexpr float kInfinity = __builtin_inff();

// False when no cell is occupied.
bool load_cells(const PageJob& job, PageView* view) {
  const std::int64_t first = view->page * kPageCells;
  view->n_cells = job.kv_len - first < kPageCells ? static_cast<int>(job.kv_len - first) : kPageCells;
  int n_occupied = 0;
  for (int j = 0; j < view->n_cells; ++j) {
    const bool occupied = job.positions[first + j] != -1;
    view->blank[j] = occupied ? 0.0f : -kInfinity;
    n_occupied += occupied ? 1 : 0;
  }
  for (int j = view->n_cells; j < kPageCells; ++j) view->blank[j] = -kInfinity;
  view->plain = n_occupied == kPageCells;
  return n_occupied > 0;
}

// Norms of kLanes norm bytes: 2^(code / 16 - octaves_down) up to rounding of `octave`, the norms of 16 codes
// from 16 * octaves_down on.
GTQ_INLINE vf norms_of(const float* octave, int octaves_down, vu codes) {
  const vu exponent = (codes >> 4) - static_cast<std::uint32_t>(octaves_down);
  vu fraction;
#if defined(__ARM_FEATURE_DOTPROD)
  const vu index = (codes & 15) * 0x04040404u + 0x03020100u;  // of the four bytes of a float
  fraction = reinterpret_cast<vu>(vqtbl4q_u8(vld1q_u8_x4(reinterpret_cast<const std::uint8_t*>(octave)),
                                             reinterpret_cast<uint8x16_t>(index)));
#else
  if constexpr (kLanes == 16) {
    fraction = reinterpret_cast<vu>(__builtin_shuffle(load<vf>(octave), reinterpret_cast<vi>(codes & 15)));
  } else if constexpr (kLanes == 8) {
    fraction = reinterpret_cast<vu>(
        __builtin_shuffle(load<vf>(octave), load<vf>(octave + 8), reinterpret_cast<vi>(codes & 15)));
  } else {
    vf looked_up;
    for (int i = 0; i < kLanes; ++i) looked_up[i] = octave[codes[i] & 15];
    fraction = reinterpret_cast<vu>(looked_up);
  }
#endif
  return reinterpret_cast<vf>(fraction + (exponent << 23));
}

void load_norms(const PageJob& job, const std::uint8_t* keys, const std::uint8_t* values, PageView* view) {
  const HeadTables& head = *job.head;
  vi any_first{}, any_other{};
  for (int j = 0; j < kPageCells; j += kLanes) {
    const vu key = load_bytes_to_lanes(keys + head.key_norm_offset + j);
    const vu value = load_bytes_to_lanes(values + head.value_norm_offset + j);
    store(view->key_norm + j, norms_of(head.key_norm_octave, kKeyNormOctaves, key & 127));
    const vf value_norm = norms_of(head.value_norm_octave, kValueNormOctaves, value);
    store(view->value_norm + j, value == 0 ? vf{} : value_norm);
    const vi first_mean = key < 128;
    const vi occupied = load<vf>(view->blank + j) == 0.0f;
    store(view->first_mean + j, first_mean);
    any_first |= first_mean & occupied;
    any_other |= ~first_mean & occupied;
  }
  view->any_mean[0] = any_lane(any_first);
  view->any_mean[1] = any_lane(any_other);
  __builtin_memcpy(&view->start, static_cast<const char*>(job.page_positions) + view->page * sizeof(PageStart),
                   sizeof(PageStart));
}

// The page's 64 masks of all rows are +0.
bool masks_are_zero(const PageJob& job, std::int64_t page) {
  vu any{};
  for (int r = 0; r < job.n_rows; ++r) {
    const char* row = reinterpret_cast<const char*>(job.mask) + r * job.mask_row_stride;
    for (int j = 0; j < kPageCells; j += 2 * kLanes) any |= load<vu>(row + (page * kPageCells + j) * 2);
  }
  return !any_lane(reinterpret_cast<vi>(any));
}

// Masks of all rows as floats to masks[r * stride], -inf for empty cells, and the range of rows that attend
// some cell; false when there is none.
bool load_masks(const PageJob& job, float* masks, std::size_t stride, PageView* view) {
  view->row_begin = 0;
  view->row_end = job.n_rows;
  if (job.mask == nullptr) return true;
  if (view->plain && masks_are_zero(job, view->page)) return true;
  view->plain = false;
  view->row_begin = job.n_rows;
  view->row_end = 0;
  std::uint16_t tail[kPageCells];
  if (view->n_cells < kPageCells) __builtin_memset(tail, 0, sizeof(tail));
  for (int r = 0; r < job.n_rows; ++r) {
    const char* row = reinterpret_cast<const char*>(job.mask) + r * job.mask_row_stride;
    const void* from = row + view->page * kPageCells * sizeof(std::uint16_t);
    if (view->n_cells < kPageCells) {
      __builtin_memcpy(tail, from, view->n_cells * sizeof(std::uint16_t));
      from = tail;
    }
    float* to = masks + r * stride;
    vi any{};
    for (int j = 0; j < kPageCells; j += kLanes) {
      const vf mask =
          half_to_float(load<vh>(static_cast<const std::uint16_t*>(from) + j)) + load<vf>(view->blank + j);
      store(to + j, mask);
      any |= mask > -kInfinity;
    }
    if (any_lane(any)) {
      if (r < view->row_begin) view->row_begin = r;
      view->row_end = r + 1;
    }
  }
  return view->row_begin < view->row_end;
}

struct LogitsTo {
  float* base;
  std::size_t stride;
};

// Logits of pairs m0 .. m1 in f32, mean keys added to the expanded keys.
void compute_logits(const PageJob& job, const PageView& view, const std::uint8_t* keys,
                    const std::uint8_t* next, int m0, int m1, const LogitsTo& to) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const std::size_t panel = static_cast<std::size_t>(head.head_dim_k) * kPanel;
  if (view.start.regular) {
    const int n_padded = head.by_tile.n_padded;
    phases(head.by_tile.turns, view.start.start, n_padded, s.phase, s.phase + n_padded);
  }
  for (int half = 0; half < 2; ++half) {
    for (int g = 0; g < head.head_dim_k / 16; ++g) {
      const std::size_t offset = half * head.half_bytes + head.group_offset[g];
      float* low = s.key_tile + g * 16 * kPanel;
      expand(head.widths[g], head, keys + offset, next + offset, low, low + panel);
    }
    finish_tile(job, view, half, s.key_tile);
    gemm<Store::kSet>({m1 - m0, 2, head.head_dim_k, s.query + static_cast<std::size_t>(m0) * head.head_dim_k,
                       static_cast<std::size_t>(head.head_dim_k), s.key_tile, panel,
                       to.base + m0 * to.stride + half * kHalfPage, to.stride, nullptr});
  }
}

// Logits of row m become weights; sets row_scale, updates row_max and row_sum.
void softmax_row(const PageJob& job, const PageView& view, const float* mask, int m) {
  const float slope = job.slopes == nullptr ? 1.0f : job.slopes[m % job.n_heads];
  float* row = job.scratch.logits + m * kPageCells;
  vf x[kPageVecs];
  vf top = splat(-kInfinity);
  GTQ_UNROLL
  for (int v = 0; v < kPageVecs; ++v) {
    x[v] = load<vf>(row + v * kLanes);
    if (job.logit_softcap > 0.0f) x[v] = job.logit_softcap * tanh_of(x[v] * (1.0f / job.logit_softcap));
    x[v] += slope * load<vf>(mask + v * kLanes);
    top = max(top, x[v]);
  }
  const float before = job.row_max[m];
  const float page_max = lane_max(top);
  const float now = page_max > before ? page_max : before;
  job.row_max[m] = now;
  const float shift = now == -kInfinity ? 0.0f : now;
  const float scale = before == now ? 1.0f : exp_nonpositive(splat(before - shift))[0];
  vf sum{};
  GTQ_UNROLL
  for (int v = 0; v < kPageVecs; ++v) {
    const vf p = exp_nonpositive(x[v] - shift);
    sum += p;
    store(row + v * kLanes, p * load<vf>(view.value_norm + v * kLanes));
  }
  job.scratch.row_scale[m] = scale;
  job.row_sum[m] = job.row_sum[m] * scale + lane_sum(sum);
}

void softmax_rows(const PageJob& job, const PageView& view) {
  for (int r = view.row_begin; r < view.row_end; ++r) {
    const float* mask = job.mask == nullptr || view.plain ? view.blank : job.scratch.mask + r * kPageCells;
    for (int m = r * job.n_heads; m < (r + 1) * job.n_heads; ++m) softmax_row(job, view, mask, m);
  }
}

void add_values(const PageJob& job, const std::uint8_t* values, const std::uint8_t* next, int m0, int m1) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const std::size_t unit_bytes = static_cast<std::size_t>(head.v_width) * 64;
  constexpr std::size_t kTilePanel = kPageCells * kPanel;
  const int n_panels = head.head_dim_v / kPanel;
  for (int panel = 0; panel < n_panels; panel += 2) {
    const int n = n_panels - panel < 2 ? 1 : 2;
    for (int u = 0; u < 2 * n; ++u) {
      const std::size_t offset = (2 * panel + u) * unit_bytes;
      float* low = s.value_tile + u * kTilePanel / 2;
      expand(head.v_width, head, values + offset, next + offset, low, low + kTilePanel / 4);
    }
    gemm<Store::kRowScaleAdd>({m1 - m0, n, kPageCells, s.logits + m0 * kPageCells, kPageCells, s.value_tile,
                               kTilePanel,
                               job.out + static_cast<std::size_t>(m0) * head.head_dim_v + panel * kPanel,
                               static_cast<std::size_t>(head.head_dim_v), s.row_scale + m0});
  }
}

void attend_page(const PageJob& job, std::int64_t page) {
  PageView view;
  view.page = page;
  if (!load_cells(job, &view) || !load_masks(job, job.scratch.mask, kPageCells, &view)) return;
  const std::uint8_t* keys = job.key_pages + page * job.key_page_stride;
  const std::uint8_t* values = job.value_pages + page * job.value_page_stride;
  load_norms(job, keys, values, &view);
  const int m0 = view.row_begin * job.n_heads, m1 = view.row_end * job.n_heads;
  compute_logits(job, view, keys, keys + job.page_step * job.key_page_stride, m0, m1,
                 {job.scratch.logits, kPageCells});
  softmax_rows(job, view);
  add_values(job, values, values + job.page_step * job.value_page_stride, m0, m1);
}

void clear_state(const PageJob& job) {
  const std::size_t n = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  for (std::size_t m = 0; m < n; ++m) {
    job.row_max[m] = -kInfinity;
    job.row_sum[m] = 0.0f;
  }
  for (std::size_t i = 0; i < n * job.head->head_dim_v; ++i) job.out[i] = 0.0f;
}

void attend_single_pages(const PageJob& job) {
  clear_state(job);
  const std::int64_t n_pages = (job.kv_len + kPageCells - 1) / kPageCells;
  for (std::int64_t page = job.first_page; page < n_pages; page += job.page_step) attend_page(job, page);
}
