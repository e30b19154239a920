#include "plugin/mapping.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace gtq::plugin {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t resident_pages(const Mapping& mapping) {
  std::vector<unsigned char> pages(mapping.size() / static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
  EXPECT_EQ(mincore(mapping.data(), mapping.size(), pages.data()), 0);
  return std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
}

int join_all(Mapping& mapping) {
  int n = 0;
  for (int call = 0; call < 100; ++call) n += mapping.join_pages() ? 1 : 0;
  return n;
}

TEST(Mapping, JoinsWhatIsFilledAndHardlyGrows) {
  Mapping mapping(16 * kMiB);
  std::uint8_t* const end = mapping.data() + 9 * kMiB;
  std::uint8_t next = 0;
  for (std::uint8_t* byte = mapping.data(); byte < end; ++byte) *byte = next += 7;
  const std::size_t before = resident_pages(mapping);
  const int n = join_all(mapping);
  EXPECT_GE(resident_pages(mapping), before);
  EXPECT_LE(resident_pages(mapping), before + before / 32);  // an eighth of one block in nine MiB
  next = 0;
  for (const std::uint8_t* byte = mapping.data(); byte < end; ++byte) ASSERT_EQ(*byte, next += 7);
  if (n == 0) GTEST_SKIP() << "this system does not join pages";
  EXPECT_LE(n, 5);  // blocks of 2 MiB that begin in 9, wherever they do
  mapping.drop();
  EXPECT_EQ(resident_pages(mapping), 0u);
  EXPECT_EQ(mapping.data()[4 * kMiB], 0);
  EXPECT_EQ(join_all(mapping), 0);
}

TEST(Mapping, LeavesSmallOnesAlone) {
  Mapping none, small(kMiB);
  std::fill_n(small.data(), small.size(), std::uint8_t{1});
  EXPECT_EQ(join_all(none), 0);
  EXPECT_EQ(join_all(small), 0);
}

}  // namespace
}  // namespace gtq::plugin
