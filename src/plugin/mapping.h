// Memory of zeros that the system hands out page by page, as it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gtq::plugin {

class Mapping {
 public:
  Mapping() = default;
  // Address space, which takes memory only as far as it is touched; vm.overcommit_memory=2 and `ulimit -v`
  // count it in full. Throws std::bad_alloc.
  explicit Mapping(std::size_t size);
  ~Mapping();
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;

  std::uint8_t* data() const { return data_; }
  std::size_t size() const { return size_; }
  void drop();  // zeros again, and none of it resident

  // Looks at some blocks of 2 MiB and joins the pages of one of which at least 7 in 8 are resident to a huge
  // page. The system copies the block, which takes milliseconds: to be called now and then. True if it joined
  // one; systems that cannot do it never do.
  bool join_pages();

 private:
  std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  std::vector<bool> tried_;  // blocks, to be joined
  std::size_t next_block_ = 0;
};

}  // namespace gtq::plugin
