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
std::size_t most_page_bytes(const ggml_tensor* t, bool is_key) {
  const double bits = std::ceil(is_key ? settings().budget.k_bits : settings().budget.v_bits);
  return static_cast<std::size_t>(t->ne[0] * static_cast<std::int64_t>(bits) / 8 + t->ne[0] / kLeastHeadDim) *
         kPageTokens;
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
    tensor.store(cell, row.data(), positions[cell]);
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
  const CacheName name = *cache_name(t);
  const std::size_t page = packing != nullptr ? page_bytes(*packing->codec(name.layer), name.is_key)
                                              : most_page_bytes(t, name.is_key);
  return page * static_cast<std::size_t>(t->ne[1] / kPageTokens * t->ne[2]);
}

void CacheTensor::store(std::int64_t cell, const float* row, std::int32_t position) const {
  const HeadRange heads{0, codec->n_kv_heads()};
  if (is_key) {
    codec->store_keys(pages, cell, row, position, heads);
  } else {
    codec->store_values(pages, cell, row, heads);
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
  pages = Mapping(size);  // from here on nothing fails: a cache is packed as a whole or not at all
  std::uint8_t* next = pages.data();
  for (auto& [t, tensor] : tensors) {
    tensor.codec = chosen.codec(cache_name(t)->layer);
    tensor.pages = next;
    next += packed_bytes(t, &chosen);
    if (staged.size() > 0) pack_rows(t, tensor, positions, row);
  }
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
  refresh_all_pages();
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
