// The last tokens of each stream of a cache, and the first ones, lie apart from its pages under kRecentBudget:
// where they are. Cells are counted over all streams, and so are slots.
//
//   slots of a stream   | 64: positions 0 .. 63 | a ring of recent / 64 + 1 pages |
//
// Tokens take slots of the ring in the order in which they are stored, so that positions within a page follow
// each other. When a page of the ring begins anew, its tokens move to their cells, 64 at a time; the others are
// at least the last `recent` ones.
#pragma once

#include <cstdint>
#include <vector>

#include "gtq/attention.h"

namespace gtq::plugin {

class RecentTokens {
 public:
  static constexpr std::int32_t kNone = -1;
  static constexpr int kFirst = kPageTokens;  // tokens at the start of a sequence that stay

  // A token that leaves its slot for its cell.
  struct Move {
    std::int64_t slot, cell;
    std::int32_t position;
  };

  RecentTokens() = default;                                                // of a cache that keeps none
  RecentTokens(int recent, std::int64_t n_streams, std::int64_t n_cells);  // n_cells: of one stream

  static std::int64_t n_slots_for(int recent) { return kFirst + recent + kPageTokens; }
  std::int64_t n_slots() const { return slots_per_stream_; }  // of one stream; 0: none are kept
  int capacity() const { return recent_; }  // tokens of a batch that can enter the ring of a stream
  std::int64_t slot_of(std::int64_t cell) const { return slots_.empty() ? kNone : slots_[cell]; }
  std::int32_t position(std::int64_t slot) const { return positions_[slot]; }

  // What attention reads. [n_slots] of one stream; cells are counted from the start of the stream.
  const std::int32_t* positions_of(std::int64_t stream) const {
    return &positions_[stream * slots_per_stream_];
  }
  const std::int32_t* cells_of(std::int64_t stream) const { return &cells_[stream * slots_per_stream_]; }
  PagePositions& page_positions(std::int64_t stream) { return page_positions_[stream]; }
  void refresh_pages();  // call before attention reads them

  // A batch of tokens takes these cells: the tokens that were there are forgotten. Of a batch at most
  // capacity() tokens of a stream may enter the ring, so that they do not push each other out. Tokens that make
  // room are added to `moves`, to be done before the batch is written.
  void begin_batch(const std::vector<std::int64_t>& cells, const std::int32_t* positions,
                   std::vector<Move>& moves);
  // Gives the token of a cell that has none a slot: that of its position, false when it is no first token or
  // another one has this slot; or the next one of the ring.
  bool enter_first(std::int64_t cell, std::int32_t position);
  void enter(std::int64_t cell, std::int32_t position, std::vector<Move>& moves);
  void forget(std::int64_t cell);

  void shift(const std::int32_t* by);  // [cells] added to the positions
  void copy_stream(std::int64_t from, std::int64_t to);
  void clear();

 private:
  std::int64_t stream_of(std::int64_t cell) const { return cell / cells_per_stream_; }
  std::int64_t first_slot(std::int64_t cell) const { return stream_of(cell) * slots_per_stream_; }
  std::int64_t n_ring() const { return slots_per_stream_ - kFirst; }
  void rewind(std::int64_t cell, std::int32_t position, std::vector<Move>& moves);
  void move_out(std::int64_t slot, std::vector<Move>& moves);
  void put(std::int64_t cell, std::int32_t position, std::int64_t slot);
  void leave(std::int64_t slot);

  int recent_ = 0;
  std::int64_t cells_per_stream_ = 0, slots_per_stream_ = 0;
  std::vector<std::int32_t> slots_;            // [cells] kNone: in the cell
  std::vector<std::int32_t> cells_;            // [slots] within the stream, kNone: empty
  std::vector<std::int32_t> positions_;        // [slots]
  std::vector<PagePositions> page_positions_;  // [streams]
  std::vector<std::int64_t> next_;             // [streams] slot within the ring
};

}  // namespace gtq::plugin
