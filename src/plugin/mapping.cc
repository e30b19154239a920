#include "plugin/mapping.h"

#include <sys/mman.h>

#include <new>
#include <utility>

namespace gtq::plugin {

Mapping::Mapping(std::size_t size) : size_(size) {
  void* memory =
      mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<std::uint8_t*>(memory);
}

Mapping::~Mapping() {
  if (data_ != nullptr) munmap(data_, size_);
}

Mapping::Mapping(Mapping&& other) noexcept { *this = std::move(other); }

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void Mapping::drop() const {
  if (data_ != nullptr) madvise(data_, size_, MADV_DONTNEED);
}

}  // namespace gtq::plugin
