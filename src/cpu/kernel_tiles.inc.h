// Many (query row, head) pairs by the tile registers of AMX, 16 rows of 64 bytes each:
//
//   A  16 pairs x 64 dims (or cells): the high or the low bytes of 16-bit numbers, signed
//   B  16 quads x 16 results x 4 levels: what an output of a unit is anyway (page_layout.h)
//   C  16 pairs x 16 results, sums in 32 bits
//
// Rows of A are planes: [pair][high bytes | low bytes], filled up with zeros to multiples of 64. Four products
// of two A and two B fill the eight tiles.

constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
static_assert(kTileRows == kRowPadding && kTileBytes == kNumberPadding);
static_assert(kLevelBlocks == 2);
static_assert(kLevelBlocks * sizeof(Levels) <= 64 * kMaxLevelBytes);  // the size of scratch.levels

// Signed levels, so that padding is worth nothing.
template <int W>
struct SignedTable : LevelTable<W> {
  explicit SignedTable(const CodeTable& from) : LevelTable<W>(from) {
    for (__m512i& table : this->entries) {
      table = _mm512_xor_si512(table, _mm512_set1_epi8(static_cast<char>(0x80)));
    }
  }
};

GTQ_INLINE std::size_t plane_bytes(int n) {
  return static_cast<std::size_t>(n + kTileBytes - 1) / kTileBytes * kTileBytes;
}

// All eight tiles with 16 rows of 64 bytes, while it lives.
struct TileState {
  TileState() {
    struct alignas(64) {
      std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
      std::uint16_t row_bytes[16] = {};
      std::uint8_t rows[16] = {};
    } shape;
    for (int tile = 0; tile < 8; ++tile) {
      shape.row_bytes[tile] = kTileBytes;
      shape.rows[tile] = kTileRows;
    }
    _tile_loadconfig(&shape);
  }
  ~TileState() { _tile_release(); }
  TileState(const TileState&) = delete;
  TileState& operator=(const TileState&) = delete;
};

// Row m of n numbers that levels are to be multiplied by, round(scale * x) = 256 h + l.
GTQ_INLINE void pack_many(const float* x, int n, float scale, int m, std::size_t, Quad* quads, void*) {
  const std::size_t plane = plane_bytes(n);
  auto* high = reinterpret_cast<std::uint8_t*>(quads) + 2 * plane * m;
  std::uint8_t* low = high + plane;
  const __m512 gain = _mm512_set1_ps(scale), half = _mm512_set1_ps(128.0f);
  const __m128i flip = _mm_set1_epi8(static_cast<char>(0x80));
  std::size_t i = 0;
  for (; i < static_cast<std::size_t>(n); i += 16) {
    const __m512i value = _mm512_cvtps_epi32(_mm512_fmadd_ps(_mm512_loadu_ps(x + i), gain, half));
    store(high + i, _mm512_cvtepi32_epi8(_mm512_srai_epi32(value, 8)));
    store(low + i, _mm_xor_si128(_mm512_cvtepi32_epi8(value), flip));
  }
  for (; i < plane; i += 16) {
    store(high + i, __m128i{});
    store(low + i, __m128i{});
  }
}

// Results of 16 pairs, both bytes of their numbers.
struct alignas(64) Products {
  std::int32_t high[kLevelBlocks][kTileRows][kPanel], low[kLevelBlocks][kTileRows][kPanel];

  Sums sums(int block, int row) const {
    return {_mm512_load_si512(high[block][row]), _mm512_load_si512(low[block][row])};
  }
};

// Products of 16 rows of planes with levels[quad][kBlocks]. The compiler does not know that tile instructions
// read and write memory.
template <int kBlocks>
GTQ_INLINE void multiply_tiles(const std::uint8_t* planes, std::size_t plane, const Levels* levels,
                               Products* products) {
  constexpr std::size_t kLevelStride = kBlocks * sizeof(Levels);
  asm volatile("" : : : "memory");
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kBlocks == 2) {
    _tile_zero(2);
    _tile_zero(3);
  }
  for (std::size_t k = 0; k < plane; k += kTileBytes, levels += kBlocks * kTileRows) {
    _tile_loadd(4, planes + k, 2 * plane);
    _tile_loadd(6, levels, kLevelStride);
    _tile_dpbssd(0, 4, 6);
    _tile_loadd(5, planes + plane + k, 2 * plane);
    _tile_dpbssd(1, 5, 6);
    if constexpr (kBlocks == 2) {
      _tile_loadd(7, levels + 1, kLevelStride);
      _tile_dpbssd(2, 4, 7);
      _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, products->high[0], kTileBytes);
  _tile_stored(1, products->low[0], kTileBytes);
  if constexpr (kBlocks == 2) {
    _tile_stored(2, products->high[1], kTileBytes);
    _tile_stored(3, products->low[1], kTileBytes);
  }
  asm volatile("" : : : "memory");
}

void many_keys(const PageJob& job, const PageView& view, const std::uint8_t* keys, float* logits, bool add) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  const std::size_t plane = plane_bytes(head.head_dim_k);
  const auto* planes = reinterpret_cast<const std::uint8_t*>(s.query_quads);
  Levels* levels = static_cast<Levels*>(s.levels);
  const std::ptrdiff_t ahead = kPagesAhead * job.page_step * static_cast<std::ptrdiff_t>(job.key_page_stride);
  const TileState tiles;
  Products products;
  for (int half = 0; half < 2; ++half) {
    const std::uint8_t* codes = keys + half * head.half_bytes;
    expand_keys<SignedTable>(head, codes, codes + ahead, levels);
    for (int m = 0; m < n; m += kTileRows) {
      multiply_tiles<2>(planes + 2 * plane * m, plane, levels, &products);
      for (int row = 0; row < kTileRows && m + row < n; ++row) {
        const LogitsTo to = logits_to(s, view, half, m + row, logits);
        GTQ_UNROLL
        for (int b = 0; b < 2; ++b) store_logits<1>(to, {products.sums(b, row)}, kPanel * b, add);
      }
    }
  }
}

// Dims 16 unit .. 16 (unit + kBlocks).
template <int kBlocks>
void many_value_units(const PageJob& job, const Tile& tile, int unit) {
  const Scratch& s = job.scratch;
  const int n = job.n_rows * job.n_heads;
  const std::size_t plane = plane_bytes(tile.n_pages * kPageCells);
  const auto* planes = reinterpret_cast<const std::uint8_t*>(s.weight_quads);
  Levels* levels = static_cast<Levels*>(s.levels);
  Products products;
  for (int b = 0; b < kBlocks; ++b) expand_values<SignedTable>(job, tile, unit + b, levels + b, kBlocks);
  for (int m = 0; m < n; m += kTileRows) {
    multiply_tiles<kBlocks>(planes + 2 * plane * m, plane, levels, &products);
    for (int row = 0; row < kTileRows && m + row < n; ++row) {
      GTQ_UNROLL
      for (int b = 0; b < kBlocks; ++b) add_outputs<1>(job, {products.sums(b, row)}, m + row, unit + b);
    }
  }
}

void many_values(const PageJob& job, const Tile& tile) {
  const TileState tiles;
  const int n_units = job.head->head_dim_v / 16;
  int unit = 0;
  for (; unit + kLevelBlocks <= n_units; unit += kLevelBlocks) many_value_units<kLevelBlocks>(job, tile, unit);
  if (unit < n_units) many_value_units<1>(job, tile, unit);
}

// About n multiply-adds of a level and a 16-bit number by tiles, with the loads and stores of a page's;
// returns how many they were.
GTQ_INLINE std::int64_t multiply_by_tiles(std::int64_t n) {
  constexpr int kSteps = 2, kPerRound = kSteps * kLevelBlocks * kTileRows * kPanel * kTileBytes;
  const std::int64_t n_rounds = n / kPerRound;
  alignas(64) static const std::uint8_t planes[2 * kSteps * kTileBytes * kTileRows] = {};
  alignas(64) static const Levels levels[kSteps * kLevelBlocks * kTileRows] = {};
  const TileState tiles;
  Products products;
  for (std::int64_t round = 0; round < n_rounds; ++round) {
    multiply_tiles<kLevelBlocks>(planes, kSteps * kTileBytes, levels, &products);
  }
  return n_rounds * kPerRound;
}
