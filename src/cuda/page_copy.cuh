// Pages of a warp from device to shared memory, a ring of stages private to the warp.
//   sm_90 and newer   bulk copies, one mbarrier per stage; lane 0 issues, all lanes wait
//   sm_80 .. sm_89    16-byte asynchronous copies by all lanes, one commit group per stage
// A stage holds [key page | value page | summary].
#pragma once

#include "cuda/ptx.cuh"

namespace gtq::cuda {

struct PageSource {
  const std::uint8_t *key, *value;
  const void* summary;  // 16 bytes or null
};

class PageRing {
 public:
  // ring: of this warp. barriers: kMaxStages of this warp.
  static constexpr int kMaxStages = 4;

  __device__ PageRing(std::uint8_t* ring, int n_stages, int stage_bytes, int key_bytes, int value_bytes,
                      std::uint64_t* barriers, int lane)
      : ring_(ring),
        n_stages_(n_stages),
        stage_bytes_(stage_bytes),
        key_bytes_(key_bytes),
        value_bytes_(value_bytes),
        lane_(lane) {
#if __CUDA_ARCH__ >= 900
    barriers_ = shared_address(barriers);
    if (lane == 0) {
      for (int s = 0; s < n_stages; ++s) barrier_init(barriers_ + 8 * s);
      barrier_init_fence();
    }
    __syncwarp();
#endif
  }

  // Starts the copy into the next stage; `some` false only keeps the count of copies.
  __device__ __forceinline__ void issue(const PageSource& from, bool some) {
    std::uint8_t* stage = ring_ + write_ * stage_bytes_;
#if __CUDA_ARCH__ >= 900
    if (some && lane_ == 0) {
      const std::uint32_t barrier = barriers_ + 8 * write_, to = shared_address(stage);
      barrier_expect(barrier, key_bytes_ + value_bytes_ + (from.summary != nullptr ? 16 : 0));
      copy_bulk(to, from.key, key_bytes_, barrier);
      copy_bulk(to + key_bytes_, from.value, value_bytes_, barrier);
      if (from.summary != nullptr) copy_bulk(to + key_bytes_ + value_bytes_, from.summary, 16, barrier);
    }
#else
    if (some) {
      const std::uint32_t to = shared_address(stage);
      for (int i = lane_ * 16; i < key_bytes_; i += 512) copy_16(to + i, from.key + i);
      for (int i = lane_ * 16; i < value_bytes_; i += 512) copy_16(to + key_bytes_ + i, from.value + i);
      if (from.summary != nullptr && lane_ == 0) copy_16(to + key_bytes_ + value_bytes_, from.summary);
    }
    copy_commit();
#endif
    if (++write_ == n_stages_) write_ = 0;
  }

  // The oldest stage, complete.
  __device__ __forceinline__ const std::uint8_t* wait() {
#if __CUDA_ARCH__ >= 900
    barrier_wait(barriers_ + 8 * read_, parity_);
#else
    switch (n_stages_) {
      case 1:
        copy_wait<0>();
        break;
      case 2:
        copy_wait<1>();
        break;
      case 3:
        copy_wait<2>();
        break;
      default:
        copy_wait<3>();
        break;
    }
    __syncwarp();
#endif
    return ring_ + read_ * stage_bytes_;
  }

  // All lanes are done with the oldest stage: issue() may refill it.
  __device__ __forceinline__ void release() {
    __syncwarp();
    if (++read_ == n_stages_) {
      read_ = 0;
      parity_ ^= 1;
    }
  }

 private:
  std::uint8_t* ring_;
  int n_stages_, stage_bytes_, key_bytes_, value_bytes_, lane_;
  int write_ = 0, read_ = 0;
  std::uint32_t parity_ = 0;
#if __CUDA_ARCH__ >= 900
  std::uint32_t barriers_;
#endif
};

}  // namespace gtq::cuda
