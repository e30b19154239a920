// Buffer type and buffer of the packed cache. State rows (get_tensor, set_tensor; docs/format.md) take the
// place of llama.cpp's f16 rows, which are larger.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "gtq/error.h"
#include "plugin/cache.h"
#include "plugin/device.h"
#include "plugin/settings.h"
#include "plugin/state_tag.h"

namespace gtq::plugin {
namespace {

constexpr std::uint32_t kStateMagic = 0x31515447;  // "GTQ1"

struct StateHeader {
  std::uint32_t magic;
  std::int32_t position;
  std::uint64_t tag;
};
static_assert(sizeof(StateHeader) == 16);

PackedCache& cache_of(ggml_backend_buffer_t buffer) { return *static_cast<PackedCache*>(buffer->context); }

void free_buffer(ggml_backend_buffer_t buffer) {
  PackedCache* cache = &cache_of(buffer);
  std::free(cache->memory);
  delete cache;
}

void* get_base(ggml_backend_buffer_t buffer) { return cache_of(buffer).memory; }

void clear(ggml_backend_buffer_t buffer, std::uint8_t) {
  PackedCache& cache = cache_of(buffer);
  std::memset(cache.memory, 0, cache.size);
  std::fill(cache.positions.begin(), cache.positions.end(), kEmptyCell);
  cache.refresh_all_pages();
}

void memset_tensor(ggml_backend_buffer_t, ggml_tensor*, std::uint8_t, std::size_t, std::size_t) {
  throw Error("the packed cache cannot be filled with a byte");
}

struct Rows {
  const ggml_tensor* root;
  std::int64_t first;
  std::int64_t count;
  std::size_t bytes;  // of one f16 row
};

Rows rows_of(const ggml_tensor* tensor, std::size_t offset, std::size_t size) {
  const ggml_tensor* r = root(tensor);
  const std::size_t start = (tensor->view_src != nullptr ? tensor->view_offs : 0) + offset;
  if (start % r->nb[1] != 0 || size % r->nb[1] != 0)
    throw Error("the packed cache is read and written in whole rows");
  return {r, static_cast<std::int64_t>(start / r->nb[1]), static_cast<std::int64_t>(size / r->nb[1]), r->nb[1]};
}

void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* tensor, void* data, std::size_t offset,
                std::size_t size) {
  PackedCache& cache = cache_of(buffer);
  const Rows rows = rows_of(tensor, offset, size);
  const PackedTensor& packed = cache.tensors.at(rows.root);
  const auto* pages = static_cast<const std::uint8_t*>(rows.root->data);
  std::memset(data, 0, size);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    auto* out = static_cast<std::uint8_t*>(data) + i * rows.bytes;
    const std::int64_t cell = rows.first + i;
    const StateHeader header = {kStateMagic, cache.positions[cell], settings().state_tag};
    std::memcpy(out, &header, sizeof header);
    if (packed.is_key) {
      packed.codec->load_key_rows(pages, cell, out + sizeof header);
    } else {
      packed.codec->load_value_rows(pages, cell, out + sizeof header);
    }
  }
}

// llama.cpp catches this while it loads a file, and frees the cells it wanted to fill.
[[noreturn]] void refuse_state(const StateHeader& header) {
  std::string text = "this saved state was not written by gtq; load it without gtq, or make it again";
  if (header.magic == kStateMagic) {
    const Budget saved = budget_of_tag(header.tag);
    text = fmt::format(
        "this saved state was written with {} and needs the same GTQ_KV and profile (this run: {}{}); make it "
        "again",
        to_string(saved), to_string(settings().budget),
        to_string(saved) == to_string(settings().budget) ? ", another profile" : "");
  }
  say(text);
  throw Error(text);
}

// After a refused state llama.cpp writes zeros over the cells, in pieces that need not be whole rows.
bool clears_cells(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  return std::all_of(bytes, bytes + size, [](std::uint8_t b) { return b == 0; });
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, std::size_t offset,
                std::size_t size) {
  if (clears_cells(data, size)) return;  // the cells are free: never attended until they are written again
  PackedCache& cache = cache_of(buffer);
  const Rows rows = rows_of(tensor, offset, size);
  const PackedTensor& packed = cache.tensors.at(rows.root);
  auto* pages = static_cast<std::uint8_t*>(rows.root->data);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    const auto* in = static_cast<const std::uint8_t*>(data) + i * rows.bytes;
    const std::int64_t cell = rows.first + i;
    StateHeader header;
    std::memcpy(&header, in, sizeof header);
    if (header.magic != kStateMagic || header.tag != settings().state_tag) refuse_state(header);
    cache.positions[cell] = header.position;
    if (packed.is_key) {
      packed.codec->store_key_rows(pages, cell, in + sizeof header);
    } else {
      packed.codec->store_value_rows(pages, cell, in + sizeof header);
    }
  }
  cache.refresh_pages(rows.first, rows.count);
}

// A stream copied to another one (seq_cp). Without it ggml would take every row out of its page and put it
// back.
bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* src, ggml_tensor* dst) {
  PackedCache& cache = cache_of(buffer);
  if (packed_cache(src) != &cache) return false;
  const Rows from = rows_of(src, 0, ggml_nbytes(src)), to = rows_of(dst, 0, ggml_nbytes(dst));
  if (from.root != to.root || from.count != to.count || (from.first | to.first | to.count) % kPageTokens != 0) {
    return false;
  }
  const PackedTensor& packed = cache.tensors.at(to.root);
  const std::size_t page_bytes =
      packed.is_key ? packed.codec->key_page_bytes() : packed.codec->value_page_bytes();
  auto* pages = static_cast<std::uint8_t*>(to.root->data);
  std::memcpy(pages + to.first / kPageTokens * page_bytes, pages + from.first / kPageTokens * page_bytes,
              to.count / kPageTokens * page_bytes);
  std::copy_n(&cache.positions[from.first], to.count, &cache.positions[to.first]);
  cache.refresh_pages(to.first, to.count);
  return true;
}

const ggml_backend_buffer_i kBufferInterface = {free_buffer,
                                                get_base,
                                                /*init_tensor*/ nullptr,
                                                memset_tensor,
                                                set_tensor,
                                                get_tensor,
                                                /*set_tensor_2d*/ nullptr,
                                                /*get_tensor_2d*/ nullptr,
                                                cpy_tensor,
                                                clear,
                                                /*reset*/ nullptr};

const char* name(ggml_backend_buffer_type_t) { return "GTQ0"; }

// Scratch and everything else that is not a cache lives in plain CPU memory.
ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t, std::size_t size) {
  return ggml_backend_buft_alloc_buffer(cpu_buffer_type(), size);
}

std::size_t alignment(ggml_backend_buffer_type_t) { return 64; }

std::size_t alloc_size(ggml_backend_buffer_type_t, const ggml_tensor* t) {
  const LayerCodec* codec = t->view_src == nullptr ? packable(t) : nullptr;
  return codec != nullptr ? packed_bytes(t, *codec) : ggml_nbytes(t);
}

// Why this part of llama.cpp's memory, the tensor `t` of a list, is not packed.
void explain(const ggml_tensor* t) {
  if (settings().recipe != Recipe::kGtq || std::strncmp(t->name, "cache_", 6) != 0) return;
  if (!cache_name(t)) {
    say_once(fmt::format("{} holds no keys or values (recurrent state, for example) and stays llama.cpp's own",
                         t->name));
    return;
  }
  say_not_packed(
      fmt::format("{} ({}, {} wide) is not in the profile or not an f16 key or value cache; this cache stays "
                  "llama.cpp's own (calibrate this model, and drop -ctk and -ctv)",
                  t->name, ggml_type_name(t->type), t->ne[0]));
}

bool all_packable(ggml_tensor** tensors, int n) {
  int n_cache = 0;
  for (int i = 0; i < n; ++i) {
    if (tensors[i]->view_src != nullptr) continue;
    if (packable(tensors[i]) == nullptr) {
      explain(tensors[i]);
      return false;
    }
    ++n_cache;
  }
  return n_cache > 0;
}

ggml_backend_buffer_t alloc_packed(ggml_backend_buffer_type_t type, ggml_tensor** tensors, int n) {
  auto* cache = new PackedCache;
  std::size_t f16_bytes = 0;
  for (int i = 0; i < n; ++i) {
    if (tensors[i]->view_src != nullptr) continue;
    cache->size += packed_bytes(tensors[i], *packable(tensors[i]));
    f16_bytes += ggml_nbytes(tensors[i]);
    cache->n_cells = tensors[i]->ne[1];
    cache->n_streams = tensors[i]->ne[2];
  }
  void* memory = nullptr;
  if (posix_memalign(&memory, 4096, cache->size) != 0) {
    say(fmt::format("no memory for a packed cache of {} MiB; use a smaller -c or GTQ_KV=k3v3",
                    cache->size >> 20));
    delete cache;
    return nullptr;
  }
  cache->memory = static_cast<std::uint8_t*>(memory);
  cache->positions.assign(cache->n_cells * cache->n_streams, kEmptyCell);
  ggml_backend_buffer_t buffer = ggml_backend_buffer_init(type, kBufferInterface, cache, cache->size);
  std::uint8_t* next = cache->memory;
  for (int i = 0; i < n; ++i) {
    if (tensors[i]->view_src == nullptr) {
      const LayerCodec* codec = packable(tensors[i]);
      ggml_backend_tensor_alloc(buffer, tensors[i], next);
      cache->tensors[tensors[i]] = {cache_name(tensors[i])->is_key, codec};
      next += packed_bytes(tensors[i], *codec);
    } else if (tensors[i]->buffer == nullptr) {
      ggml_backend_view_init(tensors[i]);
    }
  }
  cache->refresh_all_pages();
  say(fmt::format(
      "recipe gtq {}, {:.3f} true bits per value: cache of {:.1f} MiB in place of {:.1f} (f16), kernel {}",
      to_string(settings().budget), 16.0 * static_cast<double>(cache->size) / static_cast<double>(f16_bytes),
      static_cast<double>(cache->size) / 1048576.0, static_cast<double>(f16_bytes) / 1048576.0,
      attention_kernel_name()));
  return buffer;
}

ggml_backend_buffer_t alloc_buffer_n(ggml_backend_buffer_type_t type, ggml_tensor** tensors, int n) {
  if (all_packable(tensors, n)) return alloc_packed(type, tensors, n);
  return ggml_backend_buft_alloc_buffer_n(cpu_buffer_type(), tensors, n);
}

bool is_host(ggml_backend_buffer_type_t) { return false; }

}  // namespace

std::optional<CacheName> cache_name(const ggml_tensor* t) {
  int layer = 0, end = 0;
  if (std::sscanf(t->name, "cache_k_l%d%n", &layer, &end) == 1 && t->name[end] == '\0')
    return CacheName{true, layer};
  if (std::sscanf(t->name, "cache_v_l%d%n", &layer, &end) == 1 && t->name[end] == '\0')
    return CacheName{false, layer};
  return std::nullopt;
}

const LayerCodec* packable(const ggml_tensor* t) {
  if (settings().recipe != Recipe::kGtq || t->type != GGML_TYPE_F16) return nullptr;
  const auto name = cache_name(t);
  const LayerCodec* codec = name ? layer_codec(name->layer) : nullptr;
  if (codec == nullptr || t->ne[1] % kPageTokens != 0) return nullptr;
  const int head_dim = name->is_key ? codec->head_dim_k() : codec->head_dim_v();
  return t->ne[0] == static_cast<std::int64_t>(head_dim) * codec->n_kv_heads() ? codec : nullptr;
}

std::size_t packed_bytes(const ggml_tensor* t, const LayerCodec& codec) {
  const std::size_t page = cache_name(t)->is_key ? codec.key_page_bytes() : codec.value_page_bytes();
  return page * static_cast<std::size_t>(t->ne[1] / kPageTokens * t->ne[2]);
}

void PackedCache::refresh_pages(std::int64_t first_cell, std::int64_t n) {
  PagePositions page;
  for (std::int64_t p = first_cell / kPageTokens; p * kPageTokens < first_cell + n; ++p) {
    page.update(&positions[p * kPageTokens], kPageTokens);
    page_of(p) = page.pages[0];
  }
}

void PackedCache::refresh_all_pages() {
  page_positions.resize(n_streams);
  for (PagePositions& stream : page_positions) stream.pages.resize(n_cells / kPageTokens);
  refresh_pages(0, n_streams * n_cells);
}

PagePositions::Page& PackedCache::page_of(std::int64_t page) {
  const std::int64_t pages_per_stream = n_cells / kPageTokens;
  return page_positions[page / pages_per_stream].pages[page % pages_per_stream];
}

PackedCache* packed_cache(const ggml_tensor* t) {
  const ggml_tensor* r = root(t);
  if (r->buffer == nullptr || r->buffer->buft != buffer_type() || r->buffer->context == nullptr) return nullptr;
  return &cache_of(r->buffer);
}

ggml_backend_buffer_type_t buffer_type() {
  static ggml_backend_buffer_type type = {
      {name, alloc_buffer, alloc_buffer_n, alignment, /*get_max_size*/ nullptr, alloc_size,
       /*get_alloc_size_n*/ nullptr, is_host},
      device(),
      nullptr};
  return &type;
}

}  // namespace gtq::plugin
