#include "bench/attention_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "bench/huge_memory.h"
#include "bench/random_cache.h"

namespace gtq::bench {
namespace {

// Of a run of a floor, per thread: some tenths of a millisecond, so that few are interrupted.
constexpr std::int64_t kFloorMultiplyAdds = 1 << 24;
constexpr std::size_t kReadNumbers = (4 << 20) / sizeof(std::uint64_t);
constexpr float kRopeBase = 5e5f;

// Rounds that do not count, at least one: tables, code and memory are cold once, and Zen 4 ignores fetches into
// the second cache for a while after much was written (docs/performance.md).
constexpr std::chrono::milliseconds kWarmUp{200};

using Clock = std::chrono::steady_clock;

std::vector<std::uint16_t> causal_mask(const Shape& shape) {
  constexpr std::uint16_t kMinusInfinity = 0xfc00;
  std::vector<std::uint16_t> mask;
  for (int r = 0; r < shape.n_rows; ++r) {
    for (int j = 0; j < shape.kv_len; ++j) {
      mask.push_back(j <= shape.kv_len - shape.n_rows + r ? 0 : kMinusInfinity);
    }
  }
  return mask;
}

std::size_t spread_bytes(const Setup& setup) { return static_cast<std::size_t>(setup.spread_mib) << 20; }

// work(0) ... work(n - 1) on a thread each, this one among them.
template <class Work>
void on_threads(int n, Work work) {
  std::vector<std::jthread> others;
  for (int t = 1; t < n; ++t) others.emplace_back([&work, t] { work(t); });
  work(0);
}

// One budget of gtq: caches, query and workspace that stay.
class Packed {
 public:
  Packed(const Setup& setup, const Shape& shape, const Budget& budget, bool means,
         const std::vector<std::uint16_t>& mask)
      : n_threads_(setup.n_threads) {
    Random random(1);
    const int d = shape.head_dim;
    LayerProfile layer = random_layer(random, shape.group, 1, d, d, means ? 1.0f : 0.0f);
    layer.rope.mode = RopeMode::kNeox;
    layer.rope.n_rot = d;
    layer.rope.freq_base = kRopeBase;
    codec_ = std::make_unique<LayerCodec>(layer, budget);
    cache_ = random_cache(random, *codec_, consecutive(shape.kv_len, 0), false);
    const std::size_t key_bytes = cache_.key_pages.size(), copy_bytes = key_bytes + cache_.value_pages.size();
    n_copies_ = 1 + spread_bytes(setup) / copy_bytes;
    copies_ = HugeMemory(n_copies_ * copy_bytes);
    for (std::size_t i = 0; i < n_copies_; ++i) {
      std::uint8_t* copy = copies_.data() + i * copy_bytes;
      std::ranges::copy(cache_.key_pages, copy);
      std::ranges::copy(cache_.value_pages, copy + key_bytes);
    }
    for (int i = 0; i < shape.n_rows * shape.group * d; ++i) q_.push_back(random_normal(random));
    call_ = make_call(*codec_, cache_, shape.group, shape.n_rows, q_, out_);
    call_.mask = mask.data();
    call_.mask_row_stride = shape.kv_len * sizeof(std::uint16_t);
  }

  const AttentionCall& call() const { return call_; }
  double bytes_per_cell() const {
    return static_cast<double>(codec_->key_page_bytes() + codec_->value_page_bytes()) / kPageTokens;
  }
  void reserve() {
    const std::size_t n = attention_workspace_bytes(call_, n_threads_);
    if (n <= workspace_bytes_) return;
    workspace_ = std::make_unique<Workspace>(n);
    workspace_bytes_ = n;
  }

  void run(const cpu::Kernel& kernel, int round) {
    const std::size_t key_bytes = cache_.key_pages.size(), copy_bytes = key_bytes + cache_.value_pages.size();
    call_.key_pages = copies_.data() + round % n_copies_ * copy_bytes;
    call_.value_pages = call_.key_pages + key_bytes;
    on_threads(n_threads_, [&](int thread) {
      cpu::attention_with(kernel, call_, workspace_->data(), barrier_, thread, n_threads_);
    });
  }

 private:
  int n_threads_;
  std::unique_ptr<LayerCodec> codec_;
  Cache cache_;
  std::size_t n_copies_;
  HugeMemory copies_;  // [n_copies_] of the pages of keys, then of values
  std::vector<float> q_, out_;
  AttentionCall call_;
  std::size_t workspace_bytes_ = 0;
  std::unique_ptr<Workspace> workspace_;
  SpinBarrier barrier_;
};

// Eight sums, so that none waits for another.
std::uint64_t sum(const std::uint64_t* numbers, std::size_t n) {
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i + 8 <= n; i += 8) {
    for (int k = 0; k < 8; ++k) sums[k] += numbers[i + k];
  }
  std::uint64_t all = 0;
  for (const std::uint64_t one : sums) all += one;
  return all;
}

}  // namespace

double Shape::multiply_adds() const { return 2.0 * head_dim; }
double Shape::attended() const { return static_cast<double>(n_rows) * (kv_len - 0.5 * (n_rows - 1)); }

bool is_floor(const Case& one) { return one.kind == CaseKind::kRead || one.kind == CaseKind::kMultiply; }

double median(const Case& one) {
  std::vector<double> sorted = one.seconds;
  std::sort(sorted.begin(), sorted.end());
  return sorted[sorted.size() / 2];
}

double least(const Case& one) { return *std::min_element(one.seconds.begin(), one.seconds.end()); }

AttentionCases::AttentionCases(const Setup& setup, const Shape& shape, Peer* peer)
    : shape_(shape), mask_(causal_mask(shape)) {
  add_read_floor(setup);
  if (peer != nullptr) add_peers(setup, *peer);
  add_packed(setup);
}

void AttentionCases::warm_up() {
  const Clock::time_point start = Clock::now();
  do {
    for (Case& one : cases_) one.run(n_rounds_);
    ++n_rounds_;
  } while (Clock::now() - start < kWarmUp);
}

// Walks through as much memory as the caches of a case, a part per run.
void AttentionCases::add_read_floor(const Setup& setup) {
  const int n_threads = setup.n_threads;
  const std::size_t run_bytes = n_threads * kReadNumbers * sizeof(std::uint64_t);
  const std::size_t n_parts = 1 + spread_bytes(setup) / run_bytes;
  const auto memory = std::make_shared<HugeMemory>(n_parts * run_bytes);
  std::memset(memory->data(), 1, n_parts * run_bytes);
  Case floor;
  floor.kind = CaseKind::kRead;
  floor.name = "reading";
  floor.bytes = static_cast<double>(run_bytes);
  floor.run = [=](int round) {
    on_threads(n_threads, [&](int t) {
      const std::size_t part = (round % n_parts) * n_threads + t;
      const auto* numbers = reinterpret_cast<const std::uint64_t*>(memory->data()) + part * kReadNumbers;
      const std::uint64_t all = sum(numbers, kReadNumbers);
      asm volatile("" : : "r"(all));  // used
    });
  };
  cases_.push_back(std::move(floor));
}

void AttentionCases::add_peers(const Setup& setup, Peer& peer) {
  const std::pair<const char*, CacheType> types[] = {
      {"ggml f16", CacheType::kF16}, {"ggml q8_0", CacheType::kQ8}, {"ggml q4_0", CacheType::kQ4}};
  for (const auto& [name, type] : types) {
    if (shape_.n_rows > 1 && type == CacheType::kQ4) continue;  // takes seconds and says nothing new
    const auto node = std::make_shared<Peer::Case>(
        peer, type, Peer::Shape{shape_.head_dim, shape_.group, shape_.n_rows, shape_.kv_len},
        spread_bytes(setup), mask_);
    Case one;
    one.kind = CaseKind::kPeer;
    one.name = name;
    one.bytes = static_cast<double>(node->cache_bytes());
    one.multiply_adds = shape_.attended() * shape_.group * shape_.multiply_adds();
    one.run = [node](int round) { node->run(round); };
    cases_.push_back(std::move(one));
  }
}

void AttentionCases::add_multiply_floor(const Setup& setup, const cpu::Kernel& kernel) {
  const int n_threads = setup.n_threads, n_pairs = shape_.n_rows * shape_.group;
  Case floor;
  floor.kind = CaseKind::kMultiply;
  floor.name = std::string(kernel.name);
  floor.multiply_adds = static_cast<double>(n_threads * kernel.multiply(kFloorMultiplyAdds, n_pairs));
  floor.run = [&kernel, n_threads, n_pairs](int) {
    on_threads(n_threads, [&](int) { kernel.multiply(kFloorMultiplyAdds, n_pairs); });
  };
  cases_.push_back(std::move(floor));
}

void AttentionCases::add_packed(const Setup& setup) {
  std::vector<std::shared_ptr<Packed>> all;
  std::vector<std::string> names;
  for (const Budget& budget : setup.budgets) {
    for (const bool means : setup.means) {
      all.push_back(std::make_shared<Packed>(setup, shape_, budget, means, mask_));
      names.push_back(to_string(budget) + (means ? " means" : ""));
    }
  }
  for (const std::string& kernel_name : setup.kernels) {
    const cpu::Kernel& kernel = cpu::choose_kernel(kernel_name.c_str());
    const int floor = static_cast<int>(cases_.size());
    add_multiply_floor(setup, kernel);
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i]->reserve();
      Case one;
      one.kind = CaseKind::kPacked;
      one.name = fmt::format("{} {}", kernel.name, names[i]);
      one.bytes = all[i]->bytes_per_cell() * shape_.kv_len;
      one.multiply_adds = shape_.attended() * shape_.group * shape_.multiply_adds();
      one.multiply_floor = floor;
      one.run = [packed = all[i], &kernel](int round) { packed->run(kernel, round); };
      cases_.push_back(std::move(one));
    }
  }
}

void AttentionCases::run_round() {
  if (n_rounds_ == 0) warm_up();
  for (Case& one : cases_) {
    const Clock::time_point start = Clock::now();
    one.run(n_rounds_);
    one.seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  ++n_rounds_;
}

Figures AttentionCases::figures(const Case& one, const PickSeconds& seconds) const {
  const double time = seconds(one);
  Figures f;
  f.bytes_per_second = one.bytes / time;
  f.multiply_adds_per_second = one.multiply_adds / time;
  if (is_floor(one)) return f;
  f.ns = time / (shape_.attended() * shape_.group) * 1e9;
  f.bytes_per_cell = one.bytes / shape_.kv_len;
  const auto peer = std::find_if(cases_.begin(), cases_.end(),
                                 [](const Case& other) { return other.kind == CaseKind::kPeer; });
  for (std::size_t i = 0; i < f.ratio.size(); ++i) {
    const auto other = cases_.end() - peer > static_cast<std::ptrdiff_t>(i) ? peer + i : cases_.end();
    if (other != cases_.end() && other->kind == CaseKind::kPeer) f.ratio[i] = seconds(*other) / time;
  }
  const Case& reading = cases_.front();
  f.read_share = f.bytes_per_second / (reading.bytes / least(reading));
  if (one.multiply_floor >= 0) {
    const Case& floor = cases_[one.multiply_floor];
    f.multiply_share = f.multiply_adds_per_second / (floor.multiply_adds / least(floor));
  }
  return f;
}

}  // namespace gtq::bench
