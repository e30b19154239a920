#include <algorithm>

#include "gtq/attention.h"

namespace gtq {

void PagePositions::update(const std::int32_t* positions, std::int64_t n_cells) {
  pages.assign(static_cast<std::size_t>((n_cells + kPageTokens - 1) / kPageTokens), Page{});
  for (std::size_t p = 0; p < pages.size(); ++p) {
    const std::int64_t first = static_cast<std::int64_t>(p) * kPageTokens;
    const std::int32_t n = static_cast<std::int32_t>(std::min<std::int64_t>(kPageTokens, n_cells - first));
    std::int32_t n_seen = 0;
    for (std::int32_t j = 0; j < n; ++j) {
      const std::int32_t position = positions[first + j];
      if (position == kEmptyCell) continue;
      if (n_seen++ == 0) {
        pages[p].start = position - j;
      } else if (position - j != pages[p].start) {
        pages[p].regular = false;
        break;
      }
    }
    pages[p].full = pages[p].regular && n_seen == kPageTokens;
  }
}

}  // namespace gtq
