// Attention of one call: cuts it into work items, prepares their queries, runs the page kernel and merges.
//
// A work item is (KV head, range of query rows, share of the pages). The g query heads of the KV head share it:
// its M = rows * g pairs (row, head) share what is unpacked of each page. When there are too few items for the
// threads, pages are dealt out among n_splits items: page p belongs to split p mod n_splits, which also
// balances causal masks. Recent tokens that lie apart are one more part of every item. Partial softmax states
// meet in the workspace and are merged in fixed order.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>

#include "cpu/dispatch.h"
#include "cpu/layer_tables.h"

namespace gtq {
namespace cpu {
namespace {

constexpr int kItemPairs = 48;      // query pairs of an item, at most: its scratch fits a 512 KiB L2
constexpr int kItemsPerThread = 4;  // splitting stops when every thread has this many items
constexpr std::size_t kAlign = 64;

static_assert(sizeof(PagePositions::Page) == sizeof(PageStart) &&
              offsetof(PagePositions::Page, regular) == offsetof(PageStart, regular) &&
              offsetof(PagePositions::Page, full) == offsetof(PageStart, full));
static_assert(kPageTokens == kPageCells && kMeans == kMeanKeys);

// Hands out aligned pieces of the workspace; with a null base it only counts.
class Carver {
 public:
  explicit Carver(void* base) : base_(static_cast<std::byte*>(base)) {}

  template <class T>
  T* take(std::size_t n) {
    std::byte* at = base_ == nullptr ? nullptr : base_ + used_;
    used_ += (n * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    return reinterpret_cast<T*>(at);
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

struct Partial {
  float *row_max, *row_sum, *out;
};

struct Split {
  Split(const AttentionCall& call, int n_threads);

  int group;          // query heads per KV head
  int rows_per_item;  // query rows
  int n_row_blocks, n_items, n_splits;
  int n_parts;  // of an item: the splits, and the recent tokens
  int pairs;    // capacity of an item
};

Split::Split(const AttentionCall& call, int n_threads) {
  const int n_kv_heads = call.codec->n_kv_heads();
  group = call.n_q_heads / n_kv_heads;
  const int n_rows = static_cast<int>(call.n_rows);
  rows_per_item = std::clamp(kItemPairs / group, 1, n_rows);
  n_row_blocks = (n_rows + rows_per_item - 1) / rows_per_item;
  rows_per_item = (n_rows + n_row_blocks - 1) / n_row_blocks;
  n_row_blocks = (n_rows + rows_per_item - 1) / rows_per_item;
  n_items = n_kv_heads * n_row_blocks;
  pairs = rows_per_item * group;

  const std::int64_t n_pages = (call.kv_len + kPageTokens - 1) / kPageTokens;
  const std::int64_t most =
      std::min<std::int64_t>(n_pages, (kItemsPerThread * n_threads + n_items - 1) / n_items);
  n_splits = 1;
  double least = std::numeric_limits<double>::infinity();
  for (int s = 1; s <= most; ++s) {
    const int turns = (n_items * s + n_threads - 1) / n_threads;
    const double cost = static_cast<double>(turns) / s * (1 + 0.01 * (s - 1));
    if (cost < least) {
      least = cost;
      n_splits = s;
    }
  }
  n_parts = n_splits + (call.recent.codec != nullptr ? 1 : 0);
}

Partial take_partial(Carver& carver, const AttentionCall& call, const Split& split) {
  return {carver.take<float>(split.pairs), carver.take<float>(split.pairs),
          carver.take<float>(static_cast<std::size_t>(split.pairs) * call.codec->head_dim_v())};
}

constexpr std::size_t round_up(std::size_t n, std::size_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

Scratch take_scratch(Carver& carver, const AttentionCall& call, const Split& split) {
  std::size_t n_padded = 0, n_fast = 0;  // padded
  for (const LayerCodec* codec : {call.codec, call.recent.codec}) {
    if (codec == nullptr) continue;
    for (const auto& head : codec->impl().heads) {
      const MeanTables& mean = head->table_set.tables().mean;
      n_padded = std::max<std::size_t>(n_padded, mean.n_padded);
      n_fast = std::max<std::size_t>(n_fast, mean.fast_padded);
    }
  }
  const std::size_t pairs = split.pairs, head_dim = call.codec->head_dim_k();
  Scratch s;
  s.query = carver.take<float>(std::max(head_dim, 2 * n_padded));
  s.mean_c = carver.take<float>(kMeanKeys * pairs * 2 * n_padded);
  s.factors = carver.take<float>(kMeanRows * (2 * n_fast + kChebyshev));
  s.walked_c = carver.take<float>(pairs * 2 * n_padded);
  s.step_phases = carver.take<float>(kTilePages * 4 * n_padded);
  s.phase = carver.take<float>(kTilePages * 4 * n_padded);
  s.angles = carver.take<float>(2 * n_padded * kHalfPage);
  s.mean0 = carver.take<float>(pairs * kPageCells);
  s.logits = carver.take<float>(pairs * kTileCells);
  s.mask = carver.take<float>(split.rows_per_item * kTileCells);
  s.row_scale = carver.take<float>(pairs);
  s.levels =
      carver.take<std::byte>(std::max<std::size_t>(kHalfPage * head_dim, kPanel * kTileCells) * kMaxLevelBytes);
  s.query_quads = carver.take<Quad>(round_up(pairs, kRowPadding) * round_up(head_dim, kNumberPadding) / 4);
  s.weight_quads = carver.take<Quad>(round_up(pairs, kRowPadding) * kTileCells / 4);
  s.query_step = carver.take<float>(pairs);
  s.weight_step = carver.take<float>(pairs);
  s.query_bias = carver.take<std::uint64_t>(pairs);
  s.weight_bias = carver.take<std::uint64_t>(pairs);
  return s;
}

struct ThreadSpace {
  Scratch scratch;
  Partial partials[2];  // of an item that is not split
  float* slopes;
  Partial* parts;           // [n_parts]
  const float** part_outs;  // [n_parts] and their weights in the output row of a pair
  float* weights;
};

ThreadSpace take_thread(Carver& carver, const AttentionCall& call, const Split& split) {
  ThreadSpace space;
  space.scratch = take_scratch(carver, call, split);
  for (int p = 0; split.n_splits == 1 && p < split.n_parts; ++p) {
    space.partials[p] = take_partial(carver, call, split);
  }
  space.slopes = carver.take<float>(call.n_q_heads);
  space.parts = carver.take<Partial>(split.n_parts);
  space.part_outs = carver.take<const float*>(split.n_parts);
  space.weights = carver.take<float>(split.n_parts);
  return space;
}

std::size_t thread_bytes(const AttentionCall& call, const Split& split) {
  Carver carver(nullptr);
  take_thread(carver, call, split);
  return carver.used();
}

std::size_t partial_bytes(const AttentionCall& call, const Split& split) {
  Carver carver(nullptr);
  take_partial(carver, call, split);
  return carver.used();
}

void fill_slopes(const AttentionCall& call, float* slopes) {
  const int n = call.n_q_heads;
  int n2 = 1;
  while (2 * n2 <= n) n2 *= 2;
  const float m0 = std::exp2(-call.alibi_max_bias / static_cast<float>(n2));
  const float m1 = std::exp2(-call.alibi_max_bias / 2.0f / static_cast<float>(n2));
  for (int h = 0; h < n; ++h) {
    slopes[h] =
        h < n2 ? std::pow(m0, static_cast<float>(h + 1)) : std::pow(m1, static_cast<float>(2 * (h - n2) + 1));
  }
}

// Base of query (or output) row r of query head h.
template <class T>
T* at(T* base, std::size_t row_stride, std::size_t head_stride, std::int64_t r, int h) {
  using Byte = std::conditional_t<std::is_const_v<T>, const std::byte, std::byte>;
  return reinterpret_cast<T*>(reinterpret_cast<Byte*>(base) + r * row_stride + h * head_stride);
}

void run_item(const Kernel& kernel, const AttentionCall& call, const Split& split, const ThreadSpace& space,
              int item, int part, const Partial& partial) {
  const int kv_head = item / split.n_row_blocks;
  const std::int64_t first_row = static_cast<std::int64_t>(item % split.n_row_blocks) * split.rows_per_item;
  const bool is_recent = part == split.n_splits;
  const PackedTokens& tokens = is_recent ? call.recent : call;
  const LayerCodec::Impl& codec = tokens.codec->impl();
  const LayerCodec::Impl::Head& head = *codec.heads[kv_head];
  PageJob job{};
  job.head = &head.table_set.tables();
  job.key_pages = tokens.key_pages + head.key_offset;
  job.value_pages = tokens.value_pages + head.value_offset;
  job.key_page_stride = codec.key_page_bytes;
  job.value_page_stride = codec.value_page_bytes;
  job.positions = tokens.positions;
  job.page_positions = tokens.page_positions->pages.data();
  job.kv_len = tokens.kv_len;
  job.first_page = is_recent ? 0 : part;
  job.page_step = is_recent ? 1 : split.n_splits;
  job.n_rows = static_cast<int>(std::min<std::int64_t>(split.rows_per_item, call.n_rows - first_row));
  job.n_heads = split.group;
  job.q = at(call.q, call.q_row_stride, call.q_head_stride, first_row, kv_head * split.group);
  job.q_row_stride = call.q_row_stride;
  job.q_head_stride = call.q_head_stride;
  job.sm_scale = call.sm_scale;
  if (call.mask != nullptr) job.mask = at(call.mask, call.mask_row_stride, 0, first_row, 0);
  job.mask_row_stride = call.mask_row_stride;
  job.mask_columns = is_recent ? call.recent_cells : nullptr;
  job.n_mask_columns = call.kv_len;
  job.slopes = call.alibi_max_bias > 0.0f ? space.slopes + kv_head * split.group : nullptr;
  job.logit_softcap = call.logit_softcap;
  job.scratch = space.scratch;
  job.row_max = partial.row_max;
  job.row_sum = partial.row_sum;
  job.out = partial.out;
  kernel.attend_pages(job);
}

// How much a unit of the rotated value space of a part is of the main pages' one.
float unit_of(const AttentionCall& call, const Split& split, int kv_head, int part) {
  if (part < split.n_splits) return 1.0f;
  const auto gain = [&](const LayerCodec& codec) {
    return codec.impl().heads[kv_head]->table_set.tables().output_gain[0];
  };
  return gain(*call.recent.codec) / gain(*call.codec);
}

// Merges the parts of pair m of an item, adds the sink, leaves the rotated value space.
void finish_pair(const Kernel& kernel, const AttentionCall& call, const Split& split, const ThreadSpace& space,
                 int item, int m) {
  const int kv_head = item / split.n_row_blocks;
  const int q_head = kv_head * split.group + m % split.group;
  const std::int64_t r =
      static_cast<std::int64_t>(item % split.n_row_blocks) * split.rows_per_item + m / split.group;
  const Partial* parts = space.parts;
  float top = call.sinks != nullptr ? call.sinks[q_head] : -std::numeric_limits<float>::infinity();
  for (int s = 0; s < split.n_parts; ++s) top = std::max(top, parts[s].row_max[m]);
  float sum = call.sinks != nullptr ? std::exp(call.sinks[q_head] - top) : 0.0f;
  for (int s = 0; s < split.n_parts; ++s) {
    const float part_sum = parts[s].row_sum[m];
    space.weights[s] = part_sum == 0.0f ? 0.0f : std::exp(parts[s].row_max[m] - top);
    sum += space.weights[s] * part_sum;
    space.part_outs[s] = parts[s].out + static_cast<std::size_t>(m) * call.codec->head_dim_v();
  }
  for (int s = 0; s < split.n_parts; ++s) {
    space.weights[s] *= sum > 0.0f ? unit_of(call, split, kv_head, s) / sum : 0.0f;
  }
  kernel.finish_pair({.head = &call.codec->impl().heads[kv_head]->table_set.tables(),
                      .n_parts = split.n_parts,
                      .parts = space.part_outs,
                      .weights = space.weights,
                      .out = at(call.out, call.out_row_stride, call.out_head_stride, r, q_head)});
}

int pairs_of(const AttentionCall& call, const Split& split, int item) {
  const std::int64_t first_row = static_cast<std::int64_t>(item % split.n_row_blocks) * split.rows_per_item;
  return static_cast<int>(std::min<std::int64_t>(split.rows_per_item, call.n_rows - first_row)) * split.group;
}

}  // namespace

void attention_with(const Kernel& kernel, const AttentionCall& call, void* workspace, SpinBarrier& barrier,
                    int thread, int n_threads) {
  if (call.n_rows <= 0) return;
  const Split split(call, n_threads);
  const std::size_t per_thread = thread_bytes(call, split), per_part = partial_bytes(call, split);
  std::byte* const base = static_cast<std::byte*>(workspace);
  std::byte* const parts = base + n_threads * per_thread;
  Carver carver(base + thread * per_thread);
  const ThreadSpace space = take_thread(carver, call, split);
  if (call.alibi_max_bias > 0.0f) fill_slopes(call, space.slopes);

  if (split.n_splits == 1) {
    for (int item = thread; item < split.n_items; item += n_threads) {
      for (int p = 0; p < split.n_parts; ++p) {
        run_item(kernel, call, split, space, item, p, space.partials[p]);
        space.parts[p] = space.partials[p];
      }
      for (int m = 0; m < pairs_of(call, split, item); ++m) finish_pair(kernel, call, split, space, item, m);
    }
    return;
  }
  const auto part_of = [&](int item, int p) {
    Carver part(parts + (static_cast<std::size_t>(item) * split.n_parts + p) * per_part);
    return take_partial(part, call, split);
  };
  const std::int64_t n_units = static_cast<std::int64_t>(split.n_items) * split.n_parts;
  for (std::int64_t unit = thread; unit < n_units; unit += n_threads) {
    const int item = static_cast<int>(unit / split.n_parts), p = static_cast<int>(unit % split.n_parts);
    run_item(kernel, call, split, space, item, p, part_of(item, p));
  }
  barrier.wait(n_threads);
  std::int64_t pair = 0;
  for (int item = 0; item < split.n_items; ++item) {
    for (int p = 0; p < split.n_parts; ++p) space.parts[p] = part_of(item, p);
    for (int m = 0; m < pairs_of(call, split, item); ++m, ++pair) {
      if (pair % n_threads == thread) finish_pair(kernel, call, split, space, item, m);
    }
  }
}

}  // namespace cpu

std::size_t attention_workspace_bytes(const AttentionCall& call, int n_threads) {
  if (call.n_rows <= 0) return 0;
  const cpu::Split split(call, n_threads);
  const std::size_t n_parts = split.n_splits == 1 ? 0 : static_cast<std::size_t>(split.n_items) * split.n_parts;
  return n_threads * cpu::thread_bytes(call, split) + n_parts * cpu::partial_bytes(call, split);
}

void attention(const AttentionCall& call, void* workspace, SpinBarrier& barrier, int thread, int n_threads) {
  cpu::attention_with(cpu::active_kernel(), call, workspace, barrier, thread, n_threads);
}

}  // namespace gtq
