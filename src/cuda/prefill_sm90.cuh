// Prefill attention of a chunk on sm_90a: warpgroup matrix products, tiles brought by bulk copies.
//
// Grid: (query tile, kv_head). Three warpgroups: two with 64 of the 128 query rows each and 240 registers a
// thread, and one, with 24, of which a lane copies tiles ahead. Shared memory: queries, two stages of {keys,
// values}, the list of tiles.
//
//   warpgroup, tile i:   S = Q K_i^T             in the tensor cores
//                        O += P_(i-1) V_(i-1)    behind it
//                        P_i = softmax(S)        while O is summed
// The two warpgroups take turns to start products (named barriers 1 and 2), so that one computes weights while
// the other multiplies. Accuracy: queries, keys, values and weights are rounded to f16, sums are f32.
// Reference: src/reference/attention.cc.
#pragma once

#include "cuda/prefill_softmax.cuh"
#include "cuda/wgmma_sm90.cuh"

namespace gtq::cuda {

inline constexpr int kGroupThreads = 128;  // of a warpgroup
inline constexpr int kPrefillThreadsSm90 = 3 * kGroupThreads;
inline constexpr int kPrefillStages = 2;

template <int kDims>
constexpr int prefill_shared_bytes_sm90() {
  return 1024 + kQueryTile * kDims * 2 + kPrefillStages * 2 * half_tile_bytes(kDims);  // 1024: to align
}

struct PrefillBarriers {
  // A stage's keys [0] and values [1]: are there, are no longer needed.
  std::uint64_t full[2][kPrefillStages], empty[2][kPrefillStages];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Turns of the warpgroups.
__device__ __forceinline__ void wait_turn(int group) {
  asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
}
__device__ __forceinline__ void give_turn(int group) {
  asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory");
}

template <int kDims>
__device__ __forceinline__ void copy_tiles(const std::uint8_t* tiles, const TileEntry* list, int n_entries,
                                           PrefillBarriers& barriers, std::uint8_t* stages) {
  constexpr int kHalfBytes = half_tile_bytes(kDims);
  for (int i = 0; i < n_entries; ++i) {
    const int stage = i % kPrefillStages;
    const std::uint32_t parity = i / kPrefillStages % 2;
    const std::uint8_t* tile = tiles + static_cast<long long>(list[i].tile()) * 2 * kHalfBytes;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::uint32_t full = shared_address(&barriers.full[half][stage]);
      barrier_wait(shared_address(&barriers.empty[half][stage]), parity ^ 1);
      barrier_expect(full, kHalfBytes);
      copy_bulk(shared_address(stages + (2 * stage + half) * kHalfBytes), tile + half * kHalfBytes, kHalfBytes,
                full);
    }
  }
}

template <int kDims>
struct Products {
  static constexpr int kKeys = tile_keys(kDims), kHalfBytes = half_tile_bytes(kDims);
  std::uint64_t queries;  // of this warpgroup
  std::uint32_t stages;

  __device__ __forceinline__ void start_logits(int stage, float (&s)[kKeys / 2]) const {
    const std::uint64_t keys = along_rows(stages + 2 * stage * kHalfBytes);
#pragma unroll
    for (int step = 0; step < kDims / 16; ++step) {
      const int slab = step / 4, at = step % 4 * 2;
      multiply_tiles(s, queries + slab * (kQueryTile * kSlabRowBytes / 16) + at,
                     keys + slab * (kKeys * kSlabRowBytes / 16) + at, step);
    }
    products_commit();
  }

  __device__ __forceinline__ void start_values(int stage, const std::uint32_t (&weights)[kKeys / 4],
                                               float (&o)[kDims / 2]) const {
    const std::uint64_t values = across_rows(stages + (2 * stage + 1) * kHalfBytes, kKeys * kSlabRowBytes);
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) add_weighted(o, weights + 4 * step, values + 128 * step);
    products_commit();
  }
};

template <int kDims, bool kShaped>
class WarpgroupAttention {
 public:
  static constexpr int kKeys = tile_keys(kDims);

  __device__ __forceinline__ WarpgroupAttention(const PrefillParams& params, const TileEntry* entries,
                                                const LaneRows& warp, PrefillBarriers& in_shared,
                                                const Products<kDims>& tiles)
      : p(params), list(entries), rows(warp), barriers(in_shared), products(tiles) {
    load_state(p, rows, state, o);
  }

  // group: which of the two warpgroups this is.
  __device__ __forceinline__ void attend(int group, int n_entries) {
    if (n_entries == 0) return;
    if (group == 1) give_turn(group);
    wait_for(0, 0);
    wait_turn(group);
    products_begin();
    products.start_logits(0, s);
    give_turn(group);
    products_wait<0>();
    settle(s);
    release(0, 0);
    const float2 first = weigh_tile(0);
    finish_tile(first);
#pragma unroll 1
    for (int i = 1; i < n_entries; ++i) {
      wait_for(0, i);
      wait_turn(group);
      products_begin();
      products.start_logits(i % kPrefillStages, s);
      wait_for(1, i - 1);
      products_begin();
      products.start_values((i - 1) % kPrefillStages, weights, o);
      give_turn(group);
      products_wait<1>();
      settle(s);
      release(0, i);
      const float2 factors = weigh_tile(i);
      products_wait<0>();
      settle(o);
      release(1, i - 1);
      finish_tile(factors);
    }
    wait_for(1, n_entries - 1);
    wait_turn(group);
    products_begin();
    products.start_values((n_entries - 1) % kPrefillStages, weights, o);
    if (group == 0) give_turn(group);
    products_wait<0>();
    settle(o);
  }

  __device__ __forceinline__ void store() { store_state(p, rows, state, o); }

 private:
  // Keys (0) or values (1) of entry i.
  __device__ __forceinline__ void wait_for(int half, int i) const {
    barrier_wait(shared_address(&barriers.full[half][i % kPrefillStages]), i / kPrefillStages % 2);
  }
  __device__ __forceinline__ void release(int half, int i) const {
    if (rows.lane == 0) barrier_arrive(shared_address(&barriers.empty[half][i % kPrefillStages]));
  }

  __device__ __forceinline__ float2 weigh_tile(int i) {
    if (!list[i].is_mixed()) return weigh(s, p.call.sm_scale * kLog2E, state);
    mixed_logits<kKeys, kShaped>(p, rows, list[i].tile(), kKeys, 0, s);
    return weigh(s, 1.0f, state);
  }

  __device__ __forceinline__ void finish_tile(float2 factors) {
    rescale(o, factors);
    pack_weights(s, weights);
  }

  const PrefillParams& p;
  const TileEntry* list;
  const LaneRows rows;
  PrefillBarriers& barriers;
  const Products<kDims>& products;
  RowState state;
  float s[kKeys / 2], o[kDims / 2];
  std::uint32_t weights[kKeys / 4];
};
#endif

template <int kDims, bool kShaped>
__global__ void __launch_bounds__(kPrefillThreadsSm90, 1)
    prefill_sm90_kernel(const __grid_constant__ PrefillParams p) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kQueryBytes = kQueryTile * kDims * 2;
  extern __shared__ std::uint8_t unaligned[];
  __shared__ TileEntry list[kMostChunkTiles];
  __shared__ PrefillBarriers barriers;
  __shared__ int n_entries;
  std::uint8_t* shared = unaligned + (-shared_address(unaligned) & 1023);
  const int query_tile = static_cast<int>(gridDim.x - 1 - blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int group = static_cast<int>(threadIdx.x) / kGroupThreads;
  if (threadIdx.x == 2 * kGroupThreads) {
    for (int i = 0; i < 2 * kPrefillStages; ++i) {
      barrier_init(shared_address(&barriers.full[0][0] + i), 1);
      barrier_init(shared_address(&barriers.empty[0][0] + i), 2 * kGroupThreads / 32);
    }
    barrier_init_fence();
  }
  if (warp == 2 * kGroupThreads / 32) {
    const int n = list_tiles<tile_keys(kDims)>(p, query_tile, lane, list);
    if (lane == 0) n_entries = n;
  }
  if (group < 2) {
    load_queries<kDims>(p, kv_head, query_tile * kQueryTile, 2 * kGroupThreads, shared);
    async_proxy_fence();
  }
  __syncthreads();
  std::uint8_t* stages = shared + kQueryBytes;
  if (group == 2) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    const std::uint8_t* tiles =
        p.tiles + static_cast<long long>(kv_head) * p.n_tiles * 2 * half_tile_bytes(kDims);
    if (threadIdx.x == 2 * kGroupThreads) copy_tiles<kDims>(tiles, list, n_entries, barriers, stages);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const Products<kDims> products{along_rows(shared_address(shared) + group * 64 * kSlabRowBytes),
                                   shared_address(stages)};
    const LaneRows rows{kv_head, query_tile * kQueryTile + warp * 16, lane};
    WarpgroupAttention<kDims, kShaped> attention(p, list, rows, barriers, products);
    attention.attend(group, n_entries);
    attention.store();
  }
#else
  __trap();  // best_prefill_kernel() does not choose it
#endif
}

}  // namespace gtq::cuda
