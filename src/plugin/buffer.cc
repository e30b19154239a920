// Buffer type and buffer of the cache. State rows (get_tensor, set_tensor; docs/format.md) take the
// place of llama.cpp's f16 rows, which are larger.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <vector>

#include "gtq/error.h"
#include "plugin/cache.h"
#include "plugin/device.h"
#include "plugin/settings.h"
#include "plugin/state_tag.h"
#include "plugin/wide_row.h"

namespace gtq::plugin {
namespace {

constexpr std::uint32_t kStateMagic = 0x31515447;  // "GTQ1"

struct StateHeader {
  std::uint32_t magic;
  std::int32_t position;
  std::uint64_t tag;
};
static_assert(sizeof(StateHeader) == kStateHeaderBytes);
constexpr std::uint64_t kWideRow = 0;  // tag of a row of f16 values; a budget makes every other tag larger

Cache& cache_of(ggml_backend_buffer_t buffer) { return *static_cast<Cache*>(buffer->context); }

void free_buffer(ggml_backend_buffer_t buffer) { delete &cache_of(buffer); }

void* get_base(ggml_backend_buffer_t buffer) {
  const Cache& cache = cache_of(buffer);
  return cache.staged.data() != nullptr ? cache.staged.data() : cache.pages.data();
}

void clear(ggml_backend_buffer_t buffer, std::uint8_t) { cache_of(buffer).clear(); }

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

std::uint64_t tag_of(const Cache& cache, bool is_recent) {
  if (cache.packing == nullptr) return kWideRow;
  return is_recent ? cache.packing->recent_state_tag() : cache.packing->state_tag();
}

std::uint16_t* staged_row(const Rows& rows, std::int64_t cell) {
  return reinterpret_cast<std::uint16_t*>(static_cast<char*>(rows.root->data) + cell * rows.bytes);
}

void get_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* tensor, void* data, std::size_t offset,
                std::size_t size) {
  Cache& cache = cache_of(buffer);
  const Rows rows = rows_of(tensor, offset, size);
  CacheTensor& own = cache.tensors.at(rows.root);
  own.finish_moves();
  std::memset(data, 0, size);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    auto* out = static_cast<std::uint8_t*>(data) + i * rows.bytes;
    const std::int64_t cell = rows.first + i;
    const TokenPlace place = cache.place_of(own, cell);
    const StateHeader header = {kStateMagic, place.position, tag_of(cache, place.pages == &own.recent)};
    std::memcpy(out, &header, sizeof header);
    out += sizeof header;
    if (cache.packing == nullptr) {
      write_wide_row(staged_row(rows, cell), rows.root->ne[0], out);
    } else {
      place.pages->load_rows(place.at, out);
    }
  }
}

// llama.cpp catches this while it loads a file, and frees the cells it wanted to fill.
[[noreturn]] void refuse_state(const Cache& cache, const StateHeader& header) {
  std::string text = "this saved state was not written by gtq; load it without gtq, or make it again";
  if (header.magic == kStateMagic) {
    const CacheBudget& budget = settings().budget;
    const std::string saved = to_string(budget_of_tag(header.tag)), recent = to_string(kRecentBudget);
    const bool is_ours = saved == to_string(budget.tokens) || (saved == recent && budget.recent > 0);
    const char* profile = cache.packing == nullptr ? ", no profile yet" : is_ours ? ", another profile" : "";
    const char* tokens = saved == recent ? " (for all tokens, or for recent ones)" : "";
    text = fmt::format(
        "this saved state was written with {}{} and needs the same GTQ_KV and profile (this run: {}{}); make "
        "it "
        "again",
        saved, tokens, to_string(budget), profile);
  }
  say(text);
  throw Error(text);
}

// After a refused state llama.cpp writes zeros over the cells, in pieces that need not be whole rows.
bool clears_cells(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  return std::all_of(bytes, bytes + size, [](std::uint8_t b) { return b == 0; });
}

void set_wide_row(Cache& cache, const Rows& rows, std::int64_t cell, const std::uint8_t* in) {
  const CodedPages& pages = cache.tensors.at(rows.root).pages;
  const std::int64_t n = rows.root->ne[0];
  if (cache.packing == nullptr) return read_wide_row(in, n, staged_row(rows, cell));
  std::vector<ggml_fp16_t> values(n);
  std::vector<float> row(n);
  read_wide_row(in, n, values.data());
  ggml_fp16_to_fp32_row(values.data(), row.data(), n);
  pages.store(cell, row.data(), cache.positions[cell], pages.all_heads());
}

// Among the recent tokens there may be no room for all that were saved as such.
void set_packed_row(Cache& cache, const CacheTensor& own, std::int64_t cell, bool is_recent,
                    const std::uint8_t* in) {
  const TokenPlace place = cache.place_of(own, cell);
  if (!is_recent || place.pages == &own.recent) return place.pages->store_rows(place.at, in);
  std::vector<std::uint8_t> page(own.recent.page_bytes());
  std::vector<float> vectors(own.recent.codec->n_kv_heads() * own.recent.head_dim());
  const CodedPages saved = {own.pages.is_key, own.recent.codec, page.data()};
  saved.store_rows(0, in);
  saved.load(0, vectors.data(), place.position, saved.all_heads());
  own.pages.store(cell, vectors.data(), place.position, own.pages.all_heads());
}

void set_row(Cache& cache, const Rows& rows, std::int64_t cell, const std::uint8_t* in) {
  StateHeader header;
  std::memcpy(&header, in, sizeof header);
  const bool is_recent =
      cache.recent.n_slots() > 0 && header.tag == tag_of(cache, true) && header.position >= 0;
  if (header.magic != kStateMagic ||
      (header.tag != tag_of(cache, false) && header.tag != kWideRow && !is_recent)) {
    refuse_state(cache, header);
  }
  cache.place_restored(rows.root, cell, header.position, is_recent);
  cache.tensors.at(rows.root).finish_moves();
  in += sizeof header;
  if (header.tag == kWideRow) {
    set_wide_row(cache, rows, cell, in);
  } else {
    set_packed_row(cache, cache.tensors.at(rows.root), cell, is_recent, in);
  }
}

void set_tensor(ggml_backend_buffer_t buffer, ggml_tensor* tensor, const void* data, std::size_t offset,
                std::size_t size) {
  // The cells are free, and masked until they are written again; attention over staged rows may read them all
  // the same, with weight 0, for which the old values do as well as zeros.
  if (clears_cells(data, size)) return;
  Cache& cache = cache_of(buffer);
  const Rows rows = rows_of(tensor, offset, size);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    set_row(cache, rows, rows.first + i, static_cast<const std::uint8_t*>(data) + i * rows.bytes);
  }
  cache.refresh_pages(rows.first, rows.count);
}

void copy_pages(std::uint8_t* bytes, std::size_t page_bytes, std::int64_t from, std::int64_t to,
                std::int64_t n) {
  std::memcpy(bytes + to / kPageTokens * page_bytes, bytes + from / kPageTokens * page_bytes,
              n / kPageTokens * page_bytes);
}

// A stream copied to another one (seq_cp). Without it ggml would take every row out of its page and put it
// back.
bool cpy_tensor(ggml_backend_buffer_t buffer, const ggml_tensor* src, ggml_tensor* dst) {
  Cache& cache = cache_of(buffer);
  if (owned_cache(src) != &cache) return false;
  const Rows from = rows_of(src, 0, ggml_nbytes(src)), to = rows_of(dst, 0, ggml_nbytes(dst));
  if (from.root != to.root || from.count != to.count || (from.first | to.first | to.count) % kPageTokens != 0) {
    return false;
  }
  if (cache.recent.n_slots() > 0 && to.count != cache.n_cells) return false;
  CacheTensor& own = cache.tensors.at(to.root);
  own.finish_moves();
  if (cache.packing == nullptr) {
    copy_pages(static_cast<std::uint8_t*>(to.root->data), kPageTokens * to.bytes, from.first, to.first,
               to.count);
  } else {
    copy_pages(own.pages.bytes, own.pages.page_bytes(), from.first, to.first, to.count);
  }
  if (cache.recent.n_slots() > 0) {
    const std::int64_t n = cache.recent.n_slots(), source = from.first / cache.n_cells,
                       target = to.first / cache.n_cells;
    copy_pages(own.recent.bytes, own.recent.page_bytes(), source * n, target * n, n);
    cache.recent.copy_stream(source, target);
  }
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
  const Packing* packing = settings().packing.get();
  return t->view_src == nullptr && packable(t, packing) ? packed_bytes(t, packing) : ggml_nbytes(t);
}

// Why this part of llama.cpp's memory, the tensor `t` of a list, is not packed.
void explain(const ggml_tensor* t) {
  if (settings().recipe != Recipe::kGtq || std::strncmp(t->name, "cache_", 6) != 0) return;
  if (!cache_name(t)) {
    say_once(fmt::format("{} holds no keys or values (recurrent state, for example) and stays llama.cpp's own",
                         t->name));
    return;
  }
  const bool known = settings().packing != nullptr;
  say_not_packed(
      fmt::format("{} ({}, {} wide) is {}not an f16 key or value cache; this cache stays llama.cpp's own ({})",
                  t->name, ggml_type_name(t->type), t->ne[0], known ? "not in the profile or " : "",
                  known ? "calibrate this model, and drop -ctk and -ctv" : "drop -ctk and -ctv"));
}

// The tensors of a list that are no views of others.
std::vector<ggml_tensor*> roots_of(ggml_tensor** tensors, int n) {
  std::vector<ggml_tensor*> roots;
  std::copy_if(tensors, tensors + n, std::back_inserter(roots),
               [](const ggml_tensor* t) { return t->view_src == nullptr; });
  return roots;
}

bool all_packable(const std::vector<ggml_tensor*>& roots) {
  int n_keys = 0, n_values = 0;
  for (const ggml_tensor* t : roots) {
    if (!packable(t, settings().packing.get())) {
      explain(t);
      return false;
    }
    ++(cache_name(t)->is_key ? n_keys : n_values);
  }
  if (n_keys == n_values) return n_keys > 0;
  say_not_packed(
      "this model keeps keys and values in one (MLA), which gtq cannot pack; the cache stays llama.cpp's own");
  return false;
}

std::unique_ptr<Cache> make_cache(const std::vector<ggml_tensor*>& roots) {
  auto cache = std::make_unique<Cache>();
  cache->n_cells = roots.front()->ne[1];
  cache->n_streams = roots.front()->ne[2];
  cache->positions.assign(cache->n_cells * cache->n_streams, kEmptyCell);
  cache->refresh_all_pages();
  std::size_t f16_bytes = 0;
  for (ggml_tensor* t : roots) {
    cache->tensors[t].pages.is_key = cache_name(t)->is_key;
    f16_bytes += ggml_nbytes(t);
  }
  if (const Packing* packing = settings().packing.get()) {
    cache->pack(*packing);
    for (ggml_tensor* t : roots) t->data = cache->tensors.at(t).pages.bytes;
  } else {
    cache->staged = Mapping(f16_bytes);
    std::uint8_t* next = cache->staged.data();
    for (ggml_tensor* t : roots) {
      t->data = next;
      next += ggml_nbytes(t);
    }
  }
  return cache;
}

std::string no_memory(const std::vector<ggml_tensor*>& roots, std::size_t packed) {
  if (settings().packing != nullptr) {
    return fmt::format("no memory for a packed cache of {} MiB; use a smaller -c or GTQ_KV=k3v3", packed >> 20);
  }
  std::size_t staged = 0;
  for (const ggml_tensor* t : roots) staged += ggml_nbytes(t);
  return fmt::format(
      "no address space for a cache of {} MiB in 16 bits, as it is until it is packed; use a smaller -c",
      staged >> 20);
}

// Not by ggml_backend_tensor_alloc(): staged rows take more than the buffer's size, which is that of the packed
// cache, as llama.cpp shall report it.
ggml_backend_buffer_t alloc_cache(ggml_backend_buffer_type_t type, const std::vector<ggml_tensor*>& roots) {
  std::size_t size = 0;
  for (const ggml_tensor* t : roots) size += packed_bytes(t, settings().packing.get());
  try {
    ggml_backend_buffer_t buffer =
        ggml_backend_buffer_init(type, kBufferInterface, make_cache(roots).release(), size);
    for (ggml_tensor* t : roots) t->buffer = buffer;
    return buffer;
  } catch (const std::bad_alloc&) {
    say(no_memory(roots, size));
    return nullptr;
  }
}

ggml_backend_buffer_t alloc_buffer_n(ggml_backend_buffer_type_t type, ggml_tensor** tensors, int n) {
  const std::vector<ggml_tensor*> roots = roots_of(tensors, n);
  if (!all_packable(roots)) return ggml_backend_buft_alloc_buffer_n(cpu_buffer_type(), tensors, n);
  ggml_backend_buffer_t buffer = alloc_cache(type, roots);
  for (int i = 0; i < n && buffer != nullptr; ++i) {
    if (tensors[i]->view_src != nullptr && tensors[i]->buffer == nullptr) ggml_backend_view_init(tensors[i]);
  }
  return buffer;
}

bool is_host(ggml_backend_buffer_type_t) { return false; }

}  // namespace

ggml_backend_buffer_type_t buffer_type() {
  static ggml_backend_buffer_type type = {
      {name, alloc_buffer, alloc_buffer_n, alignment, /*get_max_size*/ nullptr, alloc_size,
       /*get_alloc_size_n*/ nullptr, is_host},
      device(),
      nullptr};
  return &type;
}

}  // namespace gtq::plugin
