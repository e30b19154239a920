// Speed of attention on one KV head with g query heads, against ggml's own FLASH_ATTN_EXT in the same process.
//
//   decode    one query row at the end of the cache
//   prefill   512 query rows, causal, at the end of the cache
//
// All sides of a shape are timed in turn, round after round, so that a slow spell of the machine hits them
// alike. Caches are copied until they no longer fit the CPU's caches and used in turn. A side's figures are the
// median and the least time of its rounds; ns are per cell attended and query head, ratios are medians over the
// median of ggml's f16.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cpu/random_layer.h"
#include "gtq/error.h"
#include "peer.h"

namespace gtq::bench {
namespace {

constexpr const char* kUsage =
    R"(usage: gtq_attention_bench [option=value ...]
  peer=FILE        libggml-cpu*.so to compare with (default: the one of the llama.cpp build; "none": alone)
  kernels=A,B      kernels of gtq (default: the fastest of this machine)
  dims=64,128      head_dim
  groups=1,4,6,8   query heads per KV head
  lengths=4096,16384,65536
  rows=1           query rows: 1 is decode; 512 is prefill
  bits=3,4         bits per key and value number
  means=0,1        without and with mean keys on all rope_blocks
  threads=1
  rounds=21
  spread=64        MiB of caches to walk through
  format=text|json
)";

struct Options {
  std::string peer = GTQ_BENCH_PEER;
  std::vector<std::string> kernels;
  std::vector<int> dims = {64, 128}, groups = {1, 4, 6, 8}, lengths = {4096, 16384, 65536}, rows = {1},
                   bits = {3, 4}, means = {0, 1};
  int threads = 1, rounds = 21, spread = 64;
  bool json = false;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

int to_int(const std::string& text) {
  std::size_t used = 0;
  int value = 0;
  try {
    value = std::stoi(text, &used);
  } catch (const std::exception&) {
    used = 0;
  }
  if (used == 0 || used != text.size() || value < 0) throw Error(fmt::format("{} is no number", text));
  return value;
}

std::vector<int> to_ints(const std::string& text) {
  std::vector<int> values;
  for (const std::string& part : split(text)) values.push_back(to_int(part));
  return values;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::size_t equals = argument.find('=');
    const std::string key = argument.substr(0, equals);
    const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
    if (key == "peer") {
      o.peer = value;
    } else if (key == "kernels") {
      o.kernels = split(value);
    } else if (key == "dims") {
      o.dims = to_ints(value);
    } else if (key == "groups") {
      o.groups = to_ints(value);
    } else if (key == "lengths") {
      o.lengths = to_ints(value);
    } else if (key == "rows") {
      o.rows = to_ints(value);
    } else if (key == "bits") {
      o.bits = to_ints(value);
    } else if (key == "means") {
      o.means = to_ints(value);
    } else if (key == "threads") {
      o.threads = std::max(1, to_int(value));
    } else if (key == "rounds") {
      o.rounds = std::max(1, to_int(value));
    } else if (key == "spread") {
      o.spread = to_int(value);
    } else if (key == "format" && (value == "json" || value == "text")) {
      o.json = value == "json";
    } else {
      throw Error(fmt::format("unknown option {}\n{}", argument, kUsage));
    }
  }
  if (o.kernels.empty()) o.kernels.emplace_back(cpu::supported_kernels().front().name);
  return o;
}

struct Shape {
  int head_dim, group, n_rows, kv_len;
};

std::vector<std::uint16_t> causal_mask(const Shape& shape) {
  std::vector<std::uint16_t> mask;
  for (int r = 0; r < shape.n_rows; ++r) {
    for (int j = 0; j < shape.kv_len; ++j) mask.push_back(j <= shape.kv_len - shape.n_rows + r ? 0 : 0xfc00);
  }
  return mask;
}

double attended_cells(const Shape& shape) {
  return static_cast<double>(shape.n_rows) * (shape.kv_len - 0.5 * (shape.n_rows - 1));
}

int copies(const Options& options, std::size_t cache_bytes) {
  return 1 + static_cast<int>((static_cast<std::size_t>(options.spread) << 20) / cache_bytes);
}

// Our side: caches, query and threads that stay.
class Packed {
 public:
  Packed(const Options& options, const Shape& shape, int bits, bool means,
         const std::vector<std::uint16_t>& mask)
      : threads_(options.threads) {
    test::Random random(1);
    const int d = shape.head_dim;
    LayerProfile layer = test::random_layer(random, shape.group, 1, d, d, means ? 1.0f : 0.0f);
    layer.rope.mode = RopeMode::kNeox;
    layer.rope.n_rot = d;
    layer.rope.freq_base = 5e5f;
    codec_ = std::make_unique<LayerCodec>(layer, Budget{1.0 * bits, 1.0 * bits});
    caches_.push_back(test::random_cache(random, *codec_, test::consecutive(shape.kv_len, 0), false));
    for (int n = copies(options, cache_bytes()); static_cast<int>(caches_.size()) < n;) {
      caches_.push_back(caches_[0]);
    }
    for (int i = 0; i < shape.n_rows * shape.group * d; ++i) q_.push_back(test::random_normal(random));
    call_ = test::make_call(*codec_, caches_[0], shape.group, shape.n_rows, q_, out_);
    call_.mask = mask.data();
    call_.mask_row_stride = shape.kv_len * sizeof(std::uint16_t);
    workspace_ = std::make_unique<test::Workspace>(attention_workspace_bytes(call_, threads_));
  }

  std::size_t cache_bytes() const { return caches_[0].key_pages.size() + caches_[0].value_pages.size(); }

  void run(const cpu::Kernel& kernel, int copy) {
    const test::Cache& cache = caches_[copy % caches_.size()];
    call_.key_pages = cache.key_pages.data();
    call_.value_pages = cache.value_pages.data();
    std::vector<std::thread> others;
    for (int t = 1; t < threads_; ++t) {
      others.emplace_back(
          [&, t] { cpu::attention_with(kernel, call_, workspace_->data(), barrier_, t, threads_); });
    }
    cpu::attention_with(kernel, call_, workspace_->data(), barrier_, 0, threads_);
    for (std::thread& thread : others) thread.join();
  }

 private:
  int threads_;
  std::unique_ptr<LayerCodec> codec_;
  std::vector<test::Cache> caches_;
  std::vector<float> q_, out_;
  AttentionCall call_;
  std::unique_ptr<test::Workspace> workspace_;
  SpinBarrier barrier_;
};

struct Side {
  std::string name;
  std::size_t cache_bytes;
  std::function<void(int copy)> run;
  std::vector<double> seconds;

  double median() const { return at(seconds.size() / 2); }
  double least() const { return at(0); }

 private:
  double at(std::size_t i) const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[i];
  }
};

void time_sides(std::vector<Side>& sides, int rounds) {
  using Clock = std::chrono::steady_clock;
  for (int round = -1; round < rounds; ++round) {
    for (Side& side : sides) {
      const auto start = Clock::now();
      side.run(round + 1);
      const std::chrono::duration<double> took = Clock::now() - start;
      if (round >= 0) side.seconds.push_back(took.count());
    }
  }
}

// The first of a table must be ggml's f16 for the ratios; without a peer they are left at 0.
void report(const Options& options, const Shape& shape, const std::vector<Side>& sides, bool peer) {
  const double cells = attended_cells(shape) * shape.group;
  if (!options.json) {
    fmt::print("head_dim {}, {} query heads, {} rows, {} cells, {} threads\n", shape.head_dim, shape.group,
               shape.n_rows, shape.kv_len, options.threads);
  }
  for (const Side& side : sides) {
    const double median = side.median(), least = side.least();
    const double ratio = peer ? sides[0].median() / median : 0.0;
    const double ratio_least = peer ? sides[0].least() / least : 0.0;
    const double bytes = static_cast<double>(side.cache_bytes);
    const double gmac = cells * 2 * shape.head_dim / median * 1e-9;
    if (options.json) {
      fmt::print(
          R"({{"head_dim":{},"group":{},"rows":{},"kv_len":{},"threads":{},"side":"{}","ns":{:.4f},"ns_least":{:.4f},)"
          R"("ratio":{:.3f},"ratio_least":{:.3f},"bytes_per_cell":{:.1f},"gb_per_s":{:.3f},"gmac_per_s":{:.2f}}})"
          "\n",
          shape.head_dim, shape.group, shape.n_rows, shape.kv_len, options.threads, side.name,
          median / cells * 1e9, least / cells * 1e9, ratio, ratio_least, bytes / shape.kv_len,
          bytes / median * 1e-9, gmac);
    } else {
      fmt::print(
          "  {:22} {:8.3f} ns (least {:8.3f})  x{:5.2f} (least x{:5.2f})  {:5.0f} B/cell {:6.2f} GB/s {:7.2f} "
          "GMAC/s\n",
          side.name, median / cells * 1e9, least / cells * 1e9, ratio, ratio_least, bytes / shape.kv_len,
          bytes / median * 1e-9, gmac);
    }
  }
  std::fflush(stdout);
}

void run_shape(const Options& options, Peer* peer, const Shape& shape) {
  const std::vector<std::uint16_t> mask = causal_mask(shape);
  std::vector<Side> sides;
  if (peer != nullptr) {
    const std::pair<const char*, CacheType> types[] = {
        {"ggml f16", CacheType::kF16}, {"ggml q8_0", CacheType::kQ8}, {"ggml q4_0", CacheType::kQ4}};
    for (const auto& [name, type] : types) {
      if (shape.n_rows > 1 && type == CacheType::kQ4) continue;  // takes seconds and says nothing new
      const std::size_t bytes = static_cast<std::size_t>(shape.kv_len) * shape.head_dim * 4;
      const auto one = std::make_shared<Peer::Case>(
          *peer, type, Peer::Shape{shape.head_dim, shape.group, shape.n_rows, shape.kv_len},
          copies(options, bytes), mask);
      sides.push_back({name, one->cache_bytes(), [one](int copy) { one->run(copy); }, {}});
    }
  }
  for (const int bits : options.bits) {
    for (const int means : options.means) {
      const auto packed = std::make_shared<Packed>(options, shape, bits, means != 0, mask);
      for (const std::string& name : options.kernels) {
        const cpu::Kernel& kernel = cpu::choose_kernel(name.c_str());
        sides.push_back({fmt::format("{} k{}v{}{}", name, bits, bits, means != 0 ? " means" : ""),
                         packed->cache_bytes(),
                         [packed, &kernel](int copy) { packed->run(kernel, copy); },
                         {}});
      }
    }
  }
  time_sides(sides, options.rounds);
  report(options, shape, sides, peer != nullptr);
}

int main_checked(int argc, char** argv) {
  const Options options = parse(argc, argv);
  std::unique_ptr<Peer> peer;
  if (options.peer != "none") peer = std::make_unique<Peer>(options.peer, options.threads);
  for (const int rows : options.rows) {
    for (const int head_dim : options.dims) {
      for (const int group : options.groups) {
        for (const int kv_len : options.lengths) {
          run_shape(options, peer.get(), {head_dim, group, rows, kv_len});
        }
      }
    }
  }
  return 0;
}

}  // namespace
}  // namespace gtq::bench

int main(int argc, char** argv) {
  try {
    return gtq::bench::main_checked(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "gtq_attention_bench: {}\n", e.what());
    return 1;
  }
}
