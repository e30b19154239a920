// What a page says about its cells: which are occupied, their norms, masks and mean keys.

constexpr float kInfinity = __builtin_inff();

struct PageView {
  std::int64_t page;
  PageStart start;
  int n_cells;
  alignas(64) float blank[kPageCells];  // 0 for occupied cells, -inf for empty ones
  alignas(64) float key_norm[kPageCells];
  alignas(64) float value_norm[kPageCells];
  bool any_mean[2];
  bool plain;  // the page is full and every mask is 0; then no masks were written
};

struct Tile {
  int n_pages;
  std::int64_t pages[kTilePages];
  PageView views[kTilePages];
};

// False when no cell is occupied. Positions of a full page are not read: they come from memory.
bool load_cells(const PageJob& job, PageView* view) {
  const std::int64_t first = view->page * kPageCells;
  view->n_cells = job.kv_len - first < kPageCells ? static_cast<int>(job.kv_len - first) : kPageCells;
  __builtin_memcpy(&view->start, static_cast<const char*>(job.page_positions) + view->page * sizeof(PageStart),
                   sizeof(PageStart));
  view->plain = view->start.full && view->n_cells == kPageCells && job.mask_columns == nullptr;
  if (view->plain) {
    __builtin_memset(view->blank, 0, sizeof(view->blank));
    return true;
  }
  bool any = false;
  for (int j = 0; j < kPageCells; ++j) {
    const bool occupied = j < view->n_cells && job.positions[first + j] != -1 &&
                          (job.mask_columns == nullptr || job.mask_columns[first + j] < job.n_mask_columns);
    view->blank[j] = occupied ? 0.0f : -kInfinity;
    any |= occupied;
  }
  return any;
}

// Norms of kLanes codes, from those of codes 0 .. 15. Bits of a code that `exponents` leaves out do not count.
GTQ_INLINE vf norms_of(const float* lowest, std::uint32_t exponents, vu codes) {
  vu norm;
#if defined(__ARM_FEATURE_DOTPROD)
  const vu index = (codes & 15) * 0x04040404u + 0x03020100u;  // of the four bytes of a float
  norm = reinterpret_cast<vu>(vqtbl4q_u8(vld1q_u8_x4(reinterpret_cast<const std::uint8_t*>(lowest)),
                                         reinterpret_cast<uint8x16_t>(index)));
#else
  if constexpr (kLanes == 16) {
    norm = reinterpret_cast<vu>(__builtin_shuffle(load<vf>(lowest), reinterpret_cast<vi>(codes)));
  } else if constexpr (kLanes == 8) {
    norm = reinterpret_cast<vu>(
        __builtin_shuffle(load<vf>(lowest), load<vf>(lowest + 8), reinterpret_cast<vi>(codes)));
  } else {
    vf looked_up;
    for (int i = 0; i < kLanes; ++i) looked_up[i] = lowest[codes[i] & 15];
    norm = reinterpret_cast<vu>(looked_up);
  }
#endif
  return reinterpret_cast<vf>(norm + ((codes << 19) & exponents));
}

constexpr std::uint32_t kKeyExponents = 7u << 23, kValueExponents = 15u << 23;
constexpr int kSecondMean = 128;  // bit of a key's norm byte

void load_norms(const PageJob& job, const std::uint8_t* keys, const std::uint8_t* values, PageView* view) {
  const HeadTables& head = *job.head;
  const float *key_norms = head.key_norms, *value_norms = head.value_norms;
  keys += head.key_norm_offset;
  values += head.value_norm_offset;
  vi all_set = ~vi{}, any_set{};  // bits of the keys' norm bytes
  for (int j = 0; j < kPageCells; j += kLanes) {
    const vu key = load_bytes_to_lanes(keys + j), value = load_bytes_to_lanes(values + j);
    store(view->key_norm + j, norms_of(key_norms, kKeyExponents, key));
    const vf value_norm = norms_of(value_norms, kValueExponents, value);
    store(view->value_norm + j, value == 0 ? vf{} : value_norm);
    const vi empty = load<vi>(view->blank + j) >> 31;
    all_set &= reinterpret_cast<vi>(key) | empty;
    any_set |= reinterpret_cast<vi>(key) & ~empty;
  }
  view->any_mean[0] = any_lane(~all_set & kSecondMean);
  view->any_mean[1] = any_lane(any_set & kSecondMean);
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

// The page's masks in row r, in place or put together in `room`; what stands at empty cells has no meaning.
GTQ_INLINE const std::uint16_t* mask_row(const PageJob& job, const PageView& view, int r, std::uint16_t* room) {
  const auto* row =
      reinterpret_cast<const std::uint16_t*>(reinterpret_cast<const char*>(job.mask) + r * job.mask_row_stride);
  const std::int64_t first = view.page * kPageCells;
  if (job.mask_columns != nullptr) {
    for (int j = 0; j < view.n_cells; ++j) {
      room[j] = view.blank[j] == 0.0f ? row[job.mask_columns[first + j]] : 0;
    }
    return room;
  }
  if (view.n_cells == kPageCells) return row + first;
  __builtin_memcpy(room, row + first, view.n_cells * sizeof(std::uint16_t));
  return room;
}

// Masks of all rows as floats to masks[r * kTileCells], -inf for empty cells; false when no row attends any.
bool load_masks(const PageJob& job, float* masks, PageView* view) {
  if (job.mask == nullptr) return true;
  if (view->plain && masks_are_zero(job, view->page)) return true;
  view->plain = false;
  std::uint16_t room[kPageCells] = {};
  vi any{};
  for (int r = 0; r < job.n_rows; ++r) {
    const std::uint16_t* row = mask_row(job, *view, r, room);
    for (int j = 0; j < kPageCells; j += kLanes) {
      const vf mask = half_to_float(load<vh>(row + j)) + load<vf>(view->blank + j);
      store(masks + r * kTileCells + j, mask);
      any |= mask > -kInfinity;
    }
  }
  return any_lane(any);
}
