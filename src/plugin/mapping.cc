#include "plugin/mapping.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <new>
#include <utility>

namespace gtq::plugin {
namespace {

constexpr std::size_t kBlock = std::size_t{2} << 20, kSmallestPage = 4096;
constexpr int kBlocksPerCall = 16;
constexpr int kCollapse = 25;  // MADV_COLLAPSE of Linux 6.1, which older headers lack

bool is_filled(std::uint8_t* block) {
  std::array<unsigned char, kBlock / kSmallestPage> pages = {};
  if (mincore(block, kBlock, pages.data()) != 0) return false;
  const std::size_t n = kBlock / static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return 8 * std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; }) >=
         static_cast<std::ptrdiff_t>(7 * n);
}

}  // namespace

Mapping::Mapping(std::size_t size) : size_(size) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::uint8_t*>(memory);
  tried_.assign(size / kBlock, false);
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

Mapping::Mapping(Mapping&& other) noexcept { *this = std::move(other); }

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(tried_, other.tried_);
  std::swap(next_block_, other.next_block_);
  return *this;
}

void Mapping::drop() {
  if (data_ != nullptr) madvise(data_, size_, MADV_DONTNEED);
  std::fill(tried_.begin(), tried_.end(), false);
}

bool Mapping::join_pages() {
  for (int i = 0; i < kBlocksPerCall && !tried_.empty(); ++i) {
    const std::size_t n = next_block_++ % tried_.size();
    std::uint8_t* block =
        data_ + (kBlock - reinterpret_cast<std::uintptr_t>(data_) % kBlock) % kBlock + n * kBlock;
    if (tried_[n] || block + kBlock > data_ + size_ || !is_filled(block)) continue;
    tried_[n] = true;  // once: where no huge page is free, looking for one again takes time
    const bool joined = madvise(block, kBlock, kCollapse) == 0;
    if (!joined && errno == EINVAL) tried_.clear();  // this system cannot
    return joined;
  }
  return false;
}

}  // namespace gtq::plugin
