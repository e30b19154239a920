#include "plugin/positions.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "plugin/ops.h"
#include "plugin/tensor_view.h"

namespace gtq::plugin {
namespace {

void note_stored(Cache& cache, const ggml_tensor* store, const ggml_tensor* rope) {
  std::vector<std::int64_t> cells(store->src[0]->ne[1]);
  for (std::size_t t = 0; t < cells.size(); ++t)
    cells[t] = cell_of(store->src[1], static_cast<std::int64_t>(t));
  cache.place_batch(cells, static_cast<const std::int32_t*>(rope->src[1]->data));
  cache.pages.join_pages();  // what the graphs before have filled
}

// The layout of the tokens of one page that some row of the mask lets through: regular, and where it starts.
// `columns`: of the mask, by cell; nullptr: its own. Of the mask only those below mask->ne[0] exist.
PagePositions::Page visible_page(const std::int32_t* positions, const std::int32_t* columns, std::int64_t n,
                                 const ggml_tensor* mask, std::int64_t stream, std::int64_t page) {
  constexpr std::uint16_t kMasked = 0xfc00;  // -inf
  const std::int64_t first = page * kPageTokens, end = std::min<std::int64_t>(first + kPageTokens, n);
  PagePositions::Page visible;
  bool seen = false;
  for (std::int64_t cell = first; cell < end; ++cell) {
    const std::int64_t column = columns != nullptr ? columns[cell] : cell;
    if (positions[cell] == kEmptyCell || column >= mask->ne[0]) continue;
    for (std::int64_t row = 0; row < mask->ne[1]; ++row) {
      if (at<std::uint16_t>(mask, row, 0, stream)[column] == kMasked) continue;
      const std::int32_t start = positions[cell] - static_cast<std::int32_t>(cell - first);
      if (seen && start != visible.start) return {0, false};
      visible.start = start;
      seen = true;
      break;
    }
  }
  return visible;
}

void forget_mask(Cache& cache) {
  for (const std::int64_t page : cache.masked_pages) cache.refresh_pages(page * kPageTokens, 1);
  cache.masked_pages.clear();
  cache.recent.refresh_pages();
}

// llama.cpp does not say when it frees a cell, so a page that is being filled anew looks irregular, which is
// slow to attend. Only cells that the mask lets through count for this graph.
void regard_mask(Cache& cache, const ggml_tensor* mask, std::int64_t stream, std::int64_t mask_stream) {
  const std::int32_t* positions = &cache.positions[stream * cache.n_cells];
  auto& pages = cache.page_positions[stream].pages;
  for (std::int64_t p = 0; p * kPageTokens < mask->ne[0]; ++p) {
    if (pages[p].regular) continue;
    pages[p] = visible_page(positions, nullptr, mask->ne[0], mask, mask_stream, p);
    if (pages[p].regular) cache.masked_pages.push_back(cache.n_cells / kPageTokens * stream + p);
  }
  RecentTokens& recent = cache.recent;
  for (std::int64_t p = 0; p * kPageTokens < recent.n_slots(); ++p) {
    PagePositions::Page& page = recent.page_positions(stream).pages[p];
    if (page.regular) continue;
    page = visible_page(recent.positions_of(stream), recent.cells_of(stream), recent.n_slots(), mask,
                        mask_stream, p);
  }
}

void regard_mask(Cache& cache, const ggml_tensor* attention) {
  forget_mask(cache);
  const ggml_tensor* mask = attention->src[3];
  if (mask == nullptr || mask->op != GGML_OP_NONE) return;  // not known before the graph runs
  for (std::int64_t s = 0; s < attention->src[0]->ne[3]; ++s) {
    regard_mask(cache, mask, first_stream(attention) + s, s % mask->ne[3]);
  }
}

}  // namespace

void note_positions(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> stored;
  std::map<Cache*, const ggml_tensor*> masks;
  for (int i = 0; i < n_nodes; ++i) {
    if (is_cache_store(nodes[i])) {
      Cache* cache = owned_cache(nodes[i]);
      const ggml_tensor* rope = cache != nullptr ? rope_of(nodes[i]) : nullptr;
      if (rope != nullptr && stored.insert(cache).second) note_stored(*cache, nodes[i], rope);
    } else if (is_cache_attention(nodes[i])) {
      Cache* cache = packed_cache(nodes[i]->src[1]);
      if (cache == nullptr) continue;
      const auto [first, is_first] = masks.try_emplace(cache, nodes[i]->src[3]);
      if (is_first) {
        regard_mask(*cache, nodes[i]);
      } else if (first->second != nodes[i]->src[3]) {
        forget_mask(*cache);
      }
    }
  }
}

void finish_shift(ggml_tensor** nodes, int n_nodes) {
  std::set<Cache*> done;
  for (int i = 0; i < n_nodes; ++i) {
    if (!is_key_shift(nodes[i]) || !done.insert(owned_cache(nodes[i])).second) continue;
    Cache& cache = *owned_cache(nodes[i]);
    const auto* shift = static_cast<const std::int32_t*>(nodes[i]->src[1]->data);
    for (std::size_t cell = 0; cell < cache.positions.size(); ++cell) {
      if (cache.positions[cell] != kEmptyCell) cache.positions[cell] += shift[cell];
    }
    cache.recent.shift(shift);
    cache.refresh_all_pages();
  }
}

}  // namespace gtq::plugin
