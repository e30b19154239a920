#include "plugin/recent_tokens.h"

#include <algorithm>
#include <set>

namespace gtq::plugin {

RecentTokens::RecentTokens(int recent, std::int64_t n_streams, std::int64_t n_cells)
    : recent_(recent), cells_per_stream_(n_cells), slots_per_stream_(n_slots_for(recent)) {
  slots_.assign(n_streams * n_cells, kNone);
  cells_.assign(n_streams * slots_per_stream_, kNone);
  positions_.assign(cells_.size(), kEmptyCell);
  page_positions_.resize(n_streams);
  next_.assign(n_streams, 0);
  refresh_pages();
}

void RecentTokens::refresh_pages() {
  for (std::size_t s = 0; s < page_positions_.size(); ++s) {
    page_positions_[s].update(positions_of(static_cast<std::int64_t>(s)), slots_per_stream_);
  }
}

void RecentTokens::begin_batch(const std::vector<std::int64_t>& cells, const std::int32_t* positions,
                               std::vector<Move>& moves) {
  for (const std::int64_t cell : cells) forget(cell);
  std::set<std::int64_t> streams;
  for (std::size_t t = 0; t < cells.size(); ++t) {
    if (streams.insert(stream_of(cells[t])).second) rewind(cells[t], positions[t], moves);
    const std::int64_t slot = first_slot(cells[t]) + positions[t];
    if (positions[t] < kFirst && cells_[slot] != kNone) move_out(slot, moves);  // of another sequence
  }
}

// Before the first token of a batch goes to its place: goes back over slots whose tokens were forgotten, so
// that it continues the page. Tokens that would follow it in cells and positions were taken back, as drafts
// that were not accepted, but llama.cpp does not say so: they move out, for the case that they were not.
void RecentTokens::rewind(std::int64_t cell, std::int32_t position, std::vector<Move>& moves) {
  const std::int64_t ring = first_slot(cell) + kFirst, cell_in_stream = cell % cells_per_stream_;
  std::int64_t& next = next_[stream_of(cell)];
  for (std::int64_t n = 0; n < n_ring(); ++n) {
    const std::int64_t last = (next + n_ring() - 1) % n_ring(), slot = ring + last;
    const bool is_later =
        positions_[slot] > position && cells_[slot] - cell_in_stream == positions_[slot] - position;
    if (cells_[slot] != kNone && !is_later) return;
    if (is_later) move_out(slot, moves);
    next = last;
  }
  next = 0;  // no token is left
}

void RecentTokens::move_out(std::int64_t slot, std::vector<Move>& moves) {
  const std::int64_t first_cell = slot / slots_per_stream_ * cells_per_stream_;
  moves.push_back({slot, first_cell + cells_[slot], positions_[slot]});
  leave(slot);
}

bool RecentTokens::enter_first(std::int64_t cell, std::int32_t position) {
  const std::int64_t slot = first_slot(cell) + position;
  if (position >= kFirst || cells_[slot] != kNone) return false;
  put(cell, position, slot);
  return true;
}

void RecentTokens::enter(std::int64_t cell, std::int32_t position, std::vector<Move>& moves) {
  const std::int64_t ring = first_slot(cell) + kFirst;
  std::int64_t& next = next_[stream_of(cell)];
  if (next % kPageTokens == 0) {
    for (std::int64_t slot = ring + next; slot < ring + next + kPageTokens; ++slot) {
      if (cells_[slot] != kNone) move_out(slot, moves);
    }
  }
  put(cell, position, ring + next);
  next = (next + 1) % n_ring();
}

void RecentTokens::put(std::int64_t cell, std::int32_t position, std::int64_t slot) {
  slots_[cell] = static_cast<std::int32_t>(slot);
  cells_[slot] = static_cast<std::int32_t>(cell % cells_per_stream_);
  positions_[slot] = position;
}

void RecentTokens::forget(std::int64_t cell) {
  if (slot_of(cell) != kNone) leave(slot_of(cell));
}

void RecentTokens::leave(std::int64_t slot) {
  slots_[slot / slots_per_stream_ * cells_per_stream_ + cells_[slot]] = kNone;
  cells_[slot] = kNone;
  positions_[slot] = kEmptyCell;
}

void RecentTokens::shift(const std::int32_t* by) {
  for (std::size_t cell = 0; cell < slots_.size(); ++cell) {
    if (slots_[cell] != kNone) positions_[slots_[cell]] += by[cell];
  }
}

void RecentTokens::copy_stream(std::int64_t from, std::int64_t to) {
  for (std::int64_t cell = 0; cell < cells_per_stream_; ++cell) forget(to * cells_per_stream_ + cell);
  const std::int64_t distance = (to - from) * slots_per_stream_;
  for (std::int64_t slot = from * slots_per_stream_; slot < (from + 1) * slots_per_stream_; ++slot) {
    if (cells_[slot] == kNone) continue;
    cells_[slot + distance] = cells_[slot];
    positions_[slot + distance] = positions_[slot];
    slots_[to * cells_per_stream_ + cells_[slot]] = static_cast<std::int32_t>(slot + distance);
  }
  next_[to] = next_[from];
}

void RecentTokens::clear() {
  std::ranges::fill(slots_, kNone);
  std::ranges::fill(cells_, kNone);
  std::ranges::fill(positions_, kEmptyCell);
  std::ranges::fill(next_, 0);
}

}  // namespace gtq::plugin
