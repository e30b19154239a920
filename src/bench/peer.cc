#include "peer.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <random>

#include "bench/huge_memory.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "gtq/error.h"

namespace gtq::bench {
namespace {

constexpr int kNodes = 8;

ggml_type type_of(CacheType type) {
  switch (type) {
    case CacheType::kF16:
      return GGML_TYPE_F16;
    case CacheType::kQ8:
      return GGML_TYPE_Q8_0;
    default:
      return GGML_TYPE_Q4_0;
  }
}

std::vector<float> random_floats(std::size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

std::vector<std::uint8_t> random_rows(ggml_type type, int head_dim, std::int64_t n_rows) {
  const std::vector<float> x = random_floats(static_cast<std::size_t>(n_rows) * head_dim);
  std::vector<std::uint8_t> rows(ggml_row_size(type, head_dim) * n_rows);
  ggml_quantize_chunk(type, x.data(), rows.data(), 0, n_rows, head_dim, nullptr);
  return rows;
}

}  // namespace

struct Peer::State {
  ggml_backend_t backend = nullptr;
};

Peer::Peer(const std::filesystem::path& folder, int n_threads) : state_(std::make_unique<State>()) {
  unsetenv("GGML_BACKEND_PATH");  // ggml would load that backend, too
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  ggml_backend_load_all_from_path(folder.c_str());
  ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (device == nullptr) {
    throw Error(fmt::format("no CPU backend of llama.cpp (libggml-cpu*.so) in {}; build llama.cpp there",
                            folder.string()));
  }
  const auto set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_set_n_threads"));
  state_->backend = ggml_backend_dev_init(device, nullptr);
  if (state_->backend == nullptr || set_n_threads == nullptr) {
    throw Error(fmt::format("the CPU backend of llama.cpp in {} cannot be used", folder.string()));
  }
  set_n_threads(state_->backend, n_threads);
}

Peer::~Peer() { ggml_backend_free(state_->backend); }

struct Peer::Case::State {
  ggml_backend_t backend;
  ggml_context* context;
  ggml_backend_buffer_t buffer;
  std::vector<ggml_cgraph*> graphs;
  std::size_t cache_bytes;
};

Peer::Case::Case(Peer& peer, CacheType cache_type, const Shape& shape, std::size_t spread_bytes,
                 const std::vector<std::uint16_t>& mask)
    : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.backend = peer.state_->backend;
  const ggml_type type = type_of(cache_type);
  s.cache_bytes = 2 * ggml_row_size(type, shape.head_dim) * shape.kv_len;
  const int n_copies = 1 + static_cast<int>(spread_bytes / s.cache_bytes);
  const std::size_t overhead = kNodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(kNodes, false);
  s.context = ggml_init({(n_copies + 2) * overhead, nullptr, true});
  ggml_tensor* q = ggml_new_tensor_3d(s.context, GGML_TYPE_F32, shape.head_dim, shape.n_rows, shape.n_q_heads);
  ggml_tensor* m = ggml_new_tensor_2d(s.context, GGML_TYPE_F16, shape.kv_len, shape.n_rows);
  std::vector<ggml_tensor*> caches;
  for (int i = 0; i < n_copies; ++i) {
    ggml_tensor* k = ggml_new_tensor_3d(s.context, type, shape.head_dim, shape.kv_len, 1);
    ggml_tensor* v = ggml_new_tensor_3d(s.context, type, shape.head_dim, shape.kv_len, 1);
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
    ggml_cgraph* graph = ggml_new_graph_custom(s.context, kNodes, false);
    ggml_build_forward_expand(graph, ggml_flash_attn_ext(s.context, q, k, v, m, scale, 0.0f, 0.0f));
    s.graphs.push_back(graph);
    caches.insert(caches.end(), {k, v});
  }
  s.buffer = ggml_backend_alloc_ctx_tensors(s.context, s.backend);
  if (s.buffer == nullptr) throw Error("not enough memory for the peer's caches");
  ask_for_huge_pages(ggml_backend_buffer_get_base(s.buffer), ggml_backend_buffer_get_size(s.buffer));
  const std::vector<std::uint8_t> rows = random_rows(type, shape.head_dim, shape.kv_len);
  for (ggml_tensor* cache : caches) ggml_backend_tensor_set(cache, rows.data(), 0, rows.size());
  const std::vector<float> query = random_floats(ggml_nelements(q));
  ggml_backend_tensor_set(q, query.data(), 0, ggml_nbytes(q));
  ggml_backend_tensor_set(m, mask.data(), 0, ggml_nbytes(m));
}

Peer::Case::~Case() {
  ggml_backend_buffer_free(state_->buffer);
  ggml_free(state_->context);
}

void Peer::Case::run(int copy) {
  ggml_backend_graph_compute(state_->backend, state_->graphs[copy % state_->graphs.size()]);
}

std::size_t Peer::Case::cache_bytes() const { return state_->cache_bytes; }

}  // namespace gtq::bench
