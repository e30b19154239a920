// ggml's own attention as the benchmark's peer: one FLASH_ATTN_EXT node on one KV head, run by the ggml CPU
// backend that llama.cpp was built with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <vector>

namespace gtq::bench {

enum class CacheType { kF16, kQ8, kQ4 };

class Peer {
 public:
  // Loads the CPU backend (libggml-cpu*.so) in `folder` that suits this machine best, as a stock program would,
  // and makes ggml quiet. Throws Error when there is none.
  Peer(const std::filesystem::path& folder, int n_threads);
  ~Peer();
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  struct Shape {
    int head_dim, n_q_heads, n_rows;
    std::int64_t kv_len;
  };

  // A node with caches of random numbers, together more than spread_bytes, to be used in turn so that none
  // stays in the CPU's caches.
  class Case {
   public:
    Case(Peer& peer, CacheType type, const Shape& shape, std::size_t spread_bytes,
         const std::vector<std::uint16_t>& mask);
    ~Case();
    Case(const Case&) = delete;
    Case& operator=(const Case&) = delete;

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
