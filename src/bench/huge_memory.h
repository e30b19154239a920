// Memory that the benchmarks read, gtq's and ggml's alike, in huge pages where the system has them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace gtq::bench {

inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

// For the huge pages that lie in these bytes and were not touched yet. A system without them keeps its small
// ones.
inline void ask_for_huge_pages(void* data, std::size_t n_bytes) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data), end = begin + n_bytes;
  const std::uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage,
                       last = end / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

// n_bytes, rounded up to whole huge pages, not initialized.
class HugeMemory {
 public:
  HugeMemory() = default;
  explicit HugeMemory(std::size_t n_bytes) {
    const std::size_t whole = (n_bytes + kHugePage - 1) / kHugePage * kHugePage;
    data_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(kHugePage, whole)));
    if (data_ == nullptr) throw std::bad_alloc();
    ask_for_huge_pages(data_.get(), whole);
  }
  std::uint8_t* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(std::uint8_t* data) const { std::free(data); }
  };
  std::unique_ptr<std::uint8_t, Free> data_;
};

}  // namespace gtq::bench
