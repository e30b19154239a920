// ggml's own attention as the benchmark's peer: one FLASH_ATTN_EXT node on one KV head, run by the ggml CPU
// backend that llama.cpp was built with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace gtq::bench {

enum class CacheType { kF16, kQ8, kQ4 };

class Peer {
 public:
  // Loads `library`, a libggml-cpu*.so. Throws Error when it cannot be used.
  Peer(const std::string& library, int n_threads);
  ~Peer();

  struct Shape {
    int head_dim, n_q_heads, n_rows;
    std::int64_t kv_len;
  };

  // A node with `n_copies` caches of random numbers, to be used in turn so that none stays in the CPU's caches.
  class Case {
   public:
    Case(Peer& peer, CacheType type, const Shape& shape, int n_copies, const std::vector<std::uint16_t>& mask);
    ~Case();

    void run(int copy);
    std::size_t cache_bytes() const;

   private:
    struct State;
    std::unique_ptr<State> state_;
  };

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace gtq::bench
