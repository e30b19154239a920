// Pages of a warp from device to shared memory, a ring of one or two stages private to the warp.
//   sm_90 and newer   bulk copies, one mbarrier per stage; one lane issues, all lanes wait
//   sm_80 .. sm_89    16-byte asynchronous copies by all lanes, one commit group per stage
#pragma once

#include "cuda/decode_params.h"
#include "cuda/ptx.cuh"

namespace gtq::cuda {

// Where the pages of a KV head are.
struct PageBases {
  const std::uint8_t *keys, *values;
  std::uint32_t key_stride, value_stride;
  const PageSummary* summaries;  // or null

  __device__ __forceinline__ const std::uint8_t* key(std::uint32_t page) const {
    return keys + static_cast<std::uint64_t>(page) * key_stride;
  }
  __device__ __forceinline__ const std::uint8_t* value(std::uint32_t page) const {
    return values + static_cast<std::uint64_t>(page) * value_stride;
  }
};

class PageRing {
 public:
  // ring: of warp_ring_bytes(). value_at: offset of the value page in a stage.
  __device__ PageRing(std::uint8_t* ring, int n_stages, int stage_bytes, int key_bytes, int value_bytes,
                      int value_at)
      : ring_(ring),
        stage_bytes_(stage_bytes),
        key_bytes_(key_bytes),
        value_bytes_(value_bytes),
        value_at_(value_at),
        last_(n_stages - 1) {
#if __CUDA_ARCH__ >= 900
    barriers_ = shared_address(ring + n_stages * stage_bytes);
    if (elect_lane()) {
      barrier_init(barriers_);
      if (n_stages == 2) barrier_init(barriers_ + 8);
      barrier_init_fence();
    }
    __syncwarp();
#endif
  }

  // Starts the copy of a page into the next stage; `some` false only keeps the count of copies.
  __device__ __forceinline__ void issue(const PageBases& from, std::uint32_t page, bool some) {
    const std::uint32_t to = shared_address(ring_ + write_ * stage_bytes_);
#if __CUDA_ARCH__ >= 900
    if (some && elect_lane()) {
      const std::uint32_t barrier = barriers_ + 8 * write_;
      barrier_expect(barrier, key_bytes_ + value_bytes_ + (from.summaries != nullptr ? 16 : 0));
      copy_bulk(to, from.key(page), key_bytes_, barrier);
      copy_bulk(to + value_at_, from.value(page), value_bytes_, barrier);
      if (from.summaries != nullptr)
        copy_bulk(to + value_at_ + value_bytes_, from.summaries + page, 16, barrier);
    }
#else
    if (some) {
      const int lane = static_cast<int>(threadIdx.x) % 32;
      for (int i = lane * 16; i < key_bytes_; i += 512) copy_16(to + i, from.key(page) + i);
      for (int i = lane * 16; i < value_bytes_; i += 512) copy_16(to + value_at_ + i, from.value(page) + i);
      if (from.summaries != nullptr && lane == 0) copy_16(to + value_at_ + value_bytes_, from.summaries + page);
    }
    copy_commit();
#endif
    write_ ^= last_;
  }

  __device__ __forceinline__ std::uint8_t* oldest() const { return ring_ + read_ * stage_bytes_; }

  // Until the oldest stage is complete. kAhead: another copy was issued since, where there are two stages.
  template <bool kAhead>
  __device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 900
    barrier_wait(barriers_ + 8 * read_, parity_);
#else
    if (!kAhead || last_ == 0) {
      copy_wait<0>();
    } else {
      copy_wait<1>();
    }
    __syncwarp();
#endif
  }

  // All lanes are done with the oldest stage: issue() may refill it.
  __device__ __forceinline__ void release() {
    __syncwarp();
    read_ ^= last_;
    parity_ ^= static_cast<std::uint32_t>(read_ ^ 1);
  }

  // No page is on its way or in use: the ring's memory may serve for something else.
  __device__ __forceinline__ void close() {
#if __CUDA_ARCH__ >= 900
    if (elect_lane()) {
      barrier_invalidate(barriers_);
      if (last_ == 1) barrier_invalidate(barriers_ + 8);
    }
#endif
  }

 private:
  std::uint8_t* ring_;
  int stage_bytes_, key_bytes_, value_bytes_, value_at_;
  int last_;  // stage
  int write_ = 0, read_ = 0;
  std::uint32_t parity_ = 0;
#if __CUDA_ARCH__ >= 900
  std::uint32_t barriers_;
#endif
};

}  // namespace gtq::cuda
