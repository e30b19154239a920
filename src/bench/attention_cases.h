// What the benchmarks of attention time: gtq's kernels and ggml's FLASH_ATTN_EXT on one KV head of the same
// shape, and two floors. All cases of a shape are run in turn, round after round, so that a slow spell of the
// machine hits them alike. Caches are copied until they no longer fit the CPU's caches, and used in turn.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/peer.h"
#include "cpu/dispatch.h"
#include "gtq/allocation.h"

namespace gtq::bench {

// n_rows query rows at the end of the cache, causal. 1 is decode.
struct Shape {
  int head_dim, group, n_rows, kv_len;  // group: query heads of the KV head

  double attended() const;       // pairs of a query row and a cell it sees, of one query head
  double multiply_adds() const;  // of such a pair: keys and values, without mean keys
  bool operator==(const Shape&) const = default;
};

struct Setup {
  std::vector<std::string> kernels;
  std::vector<Budget> budgets;
  std::vector<bool> means = {false, true};  // mean keys on no rope_blocks, on all
  int n_threads = 1;
  int spread_mib = 64;  // of the caches of a case that are used in turn
};

enum class CaseKind {
  kRead,      // floor: memory is read
  kMultiply,  // floor: a kernel's multiply-adds (MultiplyLoop)
  kPeer,      // ggml: f16, q8_0 and, for decode, q4_0, in this order
  kPacked,    // gtq
};

struct Case {
  CaseKind kind = CaseKind::kPacked;
  std::string name;          // "avx2 k3v3 means"
  double bytes = 0;          // read by a run: of the cache, each byte once
  double multiply_adds = 0;  // of a run
  std::function<void(int round)> run;
  int multiply_floor = -1;      // kPacked: which case
  std::vector<double> seconds;  // of each round
};

bool is_floor(const Case& one);
double median(const Case& one);
double least(const Case& one);
using PickSeconds = std::function<double(const Case&)>;  // such as median

// What a case's time means; 0 where there is nothing to compare with.
struct Figures {
  double ns = 0;                     // per cell attended and query head
  std::array<double, 3> ratio = {};  // time of ggml's f16, q8_0, q4_0 over that of the case
  double bytes_per_cell = 0, bytes_per_second = 0, multiply_adds_per_second = 0;
  double read_share = 0, multiply_share = 0;  // of the fastest round of the floors
};

// add(name, number) for all figures that are there.
template <class F>
void for_each(const Figures& f, F add) {
  const std::pair<const char*, double> all[] = {{"ns", f.ns},
                                                {"over_f16", f.ratio[0]},
                                                {"over_q8_0", f.ratio[1]},
                                                {"over_q4_0", f.ratio[2]},
                                                {"bytes_per_cell", f.bytes_per_cell},
                                                {"bytes_per_second", f.bytes_per_second},
                                                {"multiply_adds_per_second", f.multiply_adds_per_second},
                                                {"read_share", f.read_share},
                                                {"multiply_share", f.multiply_share}};
  for (const auto& [name, number] : all) {
    if (number > 0) add(name, number);
  }
}

class AttentionCases {
 public:
  // Without a peer gtq is alone. Throws Error for what gtq cannot do.
  AttentionCases(const Setup& setup, const Shape& shape, Peer* peer);

  void run_round();
  const std::vector<Case>& cases() const { return cases_; }
  Figures figures(const Case& one, const PickSeconds& seconds) const;

 private:
  void warm_up();
  void add_read_floor(const Setup& setup);
  void add_peers(const Setup& setup, Peer& peer);
  void add_multiply_floor(const Setup& setup, const cpu::Kernel& kernel);
  void add_packed(const Setup& setup);

  Shape shape_;
  std::vector<std::uint16_t> mask_;  // f16 [n_rows][kv_len]
  std::vector<Case> cases_;          // the first is the floor of reading
  int n_rounds_ = 0;
};

}  // namespace gtq::bench
