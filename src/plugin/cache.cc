#include "plugin/cache.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "plugin/settings.h"

namespace gtq::plugin {
namespace {

// Least width of a head, so at most one norm byte per so many values.
constexpr std::int64_t kLeastHeadDim = 16;

std::size_t page_bytes(const LayerCodec& codec, bool is_key) {
  return is_key ? codec.key_page_bytes() : codec.value_page_bytes();
}

// A packing that is not known yet spends at most whole bits and the norms of the narrowest heads.
std::size_t most_page_bytes(const ggml_tensor* t, bool is_key, const Budget& budget) {
  const double bits = std::ceil(is_key ? budget.k_bits : budget.v_bits);
  return static_cast<std::size_t>(t->ne[0] * static_cast<std::int64_t>(bits) / 8 + t->ne[0] / kLeastHeadDim) *
         kPageTokens;
}

// Of the pages of all cells, and of those of recent tokens.
struct PackedBytes {
  std::size_t cells, recent;
};

int recent_of(const ggml_tensor* t) {
  return static_cast<int>(std::min<std::int64_t>(settings().budget.recent, t->ne[1]));
}

PackedBytes bytes_of(const ggml_tensor* t, const Packing* packing) {
  const CacheName name = *cache_name(t);
  const std::size_t page = packing != nullptr ? page_bytes(*packing->codec(name.layer), name.is_key)
                                              : most_page_bytes(t, name.is_key, settings().budget.tokens);
  PackedBytes bytes = {page * (t->ne[1] / kPageTokens * t->ne[2]), 0};
  if (recent_of(t) > 0) {
    const std::int64_t n_pages = RecentTokens::n_slots_for(recent_of(t)) / kPageTokens;
    const std::size_t recent_page = packing != nullptr
                                        ? page_bytes(*packing->recent_codec(name.layer), name.is_key)
                                        : most_page_bytes(t, name.is_key, kRecentBudget);
    bytes.recent = recent_page * n_pages * t->ne[2];
  }
  return bytes;
}

bool covers(const Profile& profile, const ggml_tensor* t) {
  const CacheName name = *cache_name(t);
  const LayerProfile* layer = profile.find_layer(name.layer);
  if (layer == nullptr) return false;
  const int head_dim = name.is_key ? layer->head_dim_k : layer->head_dim_v;
  return t->ne[0] == static_cast<std::int64_t>(head_dim) * layer->n_kv_heads;
}

// `row`: room for the values of one.
void pack_rows(const ggml_tensor* t, const CacheTensor& tensor, const std::vector<std::int32_t>& positions,
               std::vector<float>& row) {
  for (std::int64_t cell = 0; cell < static_cast<std::int64_t>(positions.size()); ++cell) {
    if (positions[cell] == kEmptyCell) continue;
    const char* staged = static_cast<const char*>(t->data) + cell * t->nb[1];
    ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(staged), row.data(), t->ne[0]);
    tensor.pages.store(cell, row.data(), positions[cell], tensor.pages.all_heads());
  }
}

}  // namespace

std::optional<CacheName> cache_name(const ggml_tensor* t) {
  int layer = 0, end = 0;
  if (std::sscanf(t->name, "cache_k_l%d%n", &layer, &end) == 1 && t->name[end] == '\0')
    return CacheName{true, layer};
  if (std::sscanf(t->name, "cache_v_l%d%n", &layer, &end) == 1 && t->name[end] == '\0')
    return CacheName{false, layer};
  return std::nullopt;
}

bool packable(const ggml_tensor* t, const Packing* packing) {
  const auto name = cache_name(t);
  if (settings().recipe != Recipe::kGtq || !name || t->type != GGML_TYPE_F16 || t->ne[1] % kPageTokens != 0) {
    return false;
  }
  if (packing == nullptr) return t->ne[0] % kLeastHeadDim == 0;
  return covers(packing->profile(), t);
}

std::size_t packed_bytes(const ggml_tensor* t, const Packing* packing) {
  const PackedBytes bytes = bytes_of(t, packing);
  return bytes.cells + bytes.recent;
}

std::size_t CodedPages::page_bytes() const { return plugin::page_bytes(*codec, is_key); }

void CodedPages::store(std::int64_t at, const float* vectors, std::int32_t position, HeadRange heads) const {
  if (is_key) {
    codec->store_keys(bytes, at, vectors, position, heads);
  } else {
    codec->store_values(bytes, at, vectors, heads);
  }
}

void CodedPages::load(std::int64_t at, float* vectors, std::int32_t position, HeadRange heads) const {
  if (is_key) {
    codec->load_keys(bytes, at, position, vectors, heads);
  } else {
    codec->load_values(bytes, at, vectors, heads);
  }
}

void CodedPages::store_rows(std::int64_t at, const std::uint8_t* rows) const {
  if (is_key) {
    codec->store_key_rows(bytes, at, rows);
  } else {
    codec->store_value_rows(bytes, at, rows);
  }
}

void CodedPages::load_rows(std::int64_t at, std::uint8_t* rows) const {
  if (is_key) {
    codec->load_key_rows(bytes, at, rows);
  } else {
    codec->load_value_rows(bytes, at, rows);
  }
}

bool Cache::fits(const Profile& profile) const {
  return std::ranges::all_of(tensors, [&](const auto& entry) { return covers(profile, entry.first); });
}

void Cache::pack(const Packing& chosen) {
  std::size_t size = 0, f16_bytes = 0, widest = 0;
  for (const auto& [t, tensor] : tensors) {
    size += packed_bytes(t, &chosen);
    f16_bytes += ggml_nbytes(t);
    widest = std::max(widest, static_cast<std::size_t>(t->ne[0]));
  }
  std::vector<float> row(widest);
  const int n_recent = recent_of(tensors.begin()->first);
  RecentTokens apart = n_recent > 0 ? RecentTokens(n_recent, n_streams, n_cells) : RecentTokens();
  pages = Mapping(size);  // from here on nothing fails: a cache is packed as a whole or not at all
  std::uint8_t* next = pages.data();
  for (auto& [t, tensor] : tensors) {
    const int layer = cache_name(t)->layer;
    tensor.pages.codec = chosen.codec(layer);
    tensor.pages.bytes = next;
    tensor.recent = {tensor.pages.is_key, chosen.recent_codec(layer), next + bytes_of(t, &chosen).cells};
    next += packed_bytes(t, &chosen);
    if (staged.size() > 0) pack_rows(t, tensor, positions, row);
  }
  recent = std::move(apart);
  staged.drop();
  packing = &chosen;
  constexpr double kMiB = 1 << 20;
  say(fmt::format(
      "recipe gtq {}, {:.3f} true bits per value: cache of {:.1f} MiB in place of {:.1f} (f16), kernel {}",
      to_string(settings().budget), 16.0 * static_cast<double>(size) / static_cast<double>(f16_bytes),
      static_cast<double>(size) / kMiB, static_cast<double>(f16_bytes) / kMiB, attention_kernel_name()));
}

void Cache::clear() {
  pages.drop();
  staged.drop();
  std::ranges::fill(positions, kEmptyCell);
  recent.clear();
  restored_first = nullptr;
  for (auto& [t, tensor] : tensors) tensor.moves.clear();
  refresh_all_pages();
}

TokenPlace Cache::place_of(const CacheTensor& tensor, std::int64_t cell) const {
  const std::int64_t slot = recent.slot_of(cell);
  if (slot == RecentTokens::kNone) return {&tensor.pages, cell, positions[cell]};
  return {&tensor.recent, slot, recent.position(slot)};
}

void Cache::place_batch(const std::vector<std::int64_t>& cells, const std::int32_t* token_positions) {
  std::vector<RecentTokens::Move> moves;
  const bool keeps_recent = recent.n_slots() > 0;
  if (keeps_recent) recent.begin_batch(cells, token_positions, moves);
  restored_first = nullptr;
  std::vector<std::int64_t> to_come(n_streams);
  for (const std::int64_t cell : cells) ++to_come[cell / n_cells];
  for (std::size_t t = 0; t < cells.size(); ++t) {
    const std::int64_t cell = cells[t];
    const bool is_recent = --to_come[cell / n_cells] < recent.capacity();
    if (keeps_recent && !recent.enter_first(cell, token_positions[t]) && is_recent) {
      recent.enter(cell, token_positions[t], moves);
    }
    positions[cell] = recent.slot_of(cell) == RecentTokens::kNone ? token_positions[t] : kEmptyCell;
  }
  std::int64_t refreshed = -1;
  for (const std::int64_t cell : cells) {
    if (cell / kPageTokens != refreshed) refresh_pages(cell, 1);
    refreshed = cell / kPageTokens;
  }
  note_moves(moves);
}

void Cache::place_restored(const ggml_tensor* t, std::int64_t cell, std::int32_t position, bool is_recent) {
  if (restored_first == nullptr) restored_first = t;
  if (t != restored_first) return;
  std::vector<RecentTokens::Move> moves;
  recent.forget(cell);
  if (is_recent && !recent.enter_first(cell, position)) recent.enter(cell, position, moves);
  positions[cell] = recent.slot_of(cell) == RecentTokens::kNone ? position : kEmptyCell;
  note_moves(moves);
}

void Cache::note_moves(const std::vector<RecentTokens::Move>& moves) {
  if (moves.empty()) return;
  for (const RecentTokens::Move& move : moves) {
    positions[move.cell] = move.position;
    refresh_pages(move.cell, 1);
  }
  for (auto& [t, tensor] : tensors) tensor.moves.insert(tensor.moves.end(), moves.begin(), moves.end());
}

void CacheTensor::do_moves(int thread, int n_threads) const {
  const int n_heads = pages.codec->n_kv_heads();
  std::vector<float> room(n_heads * pages.head_dim());
  for (const RecentTokens::Move& move : moves) {
    for (int head = 0; head < n_heads; ++head) {
      if ((move.cell / kPageTokens * n_heads + head) % n_threads != thread) continue;
      recent.load(move.slot, room.data(), move.position, {head, head + 1});
      pages.store(move.cell, room.data(), move.position, {head, head + 1});
    }
  }
}

void CacheTensor::finish_moves() {
  if (moves.empty()) return;
  do_moves(0, 1);
  moves.clear();
}

void Cache::refresh_pages(std::int64_t first_cell, std::int64_t n) {
  PagePositions page;
  for (std::int64_t p = first_cell / kPageTokens; p * kPageTokens < first_cell + n; ++p) {
    page.update(&positions[p * kPageTokens], kPageTokens);
    page_of(p) = page.pages[0];
  }
}

void Cache::refresh_all_pages() {
  page_positions.resize(n_streams);
  for (PagePositions& stream : page_positions) stream.pages.resize(n_cells / kPageTokens);
  refresh_pages(0, n_streams * n_cells);
}

PagePositions::Page& Cache::page_of(std::int64_t page) {
  const std::int64_t pages_per_stream = n_cells / kPageTokens;
  return page_positions[page / pages_per_stream].pages[page % pages_per_stream];
}

Cache* owned_cache(const ggml_tensor* t) {
  const ggml_tensor* r = root(t);
  if (r->buffer == nullptr || r->buffer->buft != buffer_type()) return nullptr;
  return static_cast<Cache*>(r->buffer->context);
}

Cache* packed_cache(const ggml_tensor* t) {
  Cache* cache = owned_cache(t);
  return cache != nullptr && cache->packing != nullptr ? cache : nullptr;
}

}  // namespace gtq::plugin
