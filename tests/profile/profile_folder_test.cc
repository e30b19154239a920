#include "profile/profile_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "gtq/error.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

namespace fs = std::filesystem;

class ProfileFolderTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  void add(const std::string& name, std::uint64_t fingerprint, int n_tokens) const {
    Profile profile = testing::random_profile(1);
    profile.fingerprint = fingerprint;
    profile.n_tokens = n_tokens;
    write_profile(profile, folder_ / name);
  }
  // Name of the file, "" when there is none.
  std::string find(std::uint64_t fingerprint) const {
    const auto found = find_profile(folder_, [&](const Profile& p) { return p.fingerprint == fingerprint; });
    return found ? found->path.filename().string() : "";
  }

  fs::path folder_ = fs::temp_directory_path() / ("gtq-profile-folder-" + std::to_string(::getpid()));
};

TEST_F(ProfileFolderTest, TakesTheFittingProfileOverMostTokens) {
  add("a.gtq.gguf", 1, 512);
  add("b.gtq.gguf", 1, 2048);
  add("c.gtq.gguf", 1, 2048);
  add("d.gtq.gguf", 2, 4096);
  EXPECT_EQ(find(1), "b.gtq.gguf");
  EXPECT_EQ(find(2), "d.gtq.gguf");
  EXPECT_EQ(find(3), "");
}

TEST_F(ProfileFolderTest, PassesOverWhatIsNoProfile) {
  add("a.gtq.gguf", 1, 512);
  add("b.gtq.gguf", 1, 2048);
  fs::resize_file(folder_ / "b.gtq.gguf", 1000);
  std::ofstream(folder_ / "c.gtq.gguf") << "no profile";
  fs::create_directory(folder_ / "d.gtq.gguf");
  add("e.gguf", 1, 4096);  // not a name that gtq gives
  EXPECT_EQ(find(1), "a.gtq.gguf");
}

TEST_F(ProfileFolderTest, AMissingFolderHasNone) {
  fs::remove_all(folder_);
  EXPECT_EQ(find(1), "");
}

TEST_F(ProfileFolderTest, IsInTheUsersCache) {
  setenv("HOME", "/home/someone", 1);
  unsetenv("XDG_CACHE_HOME");
  EXPECT_EQ(profile_folder(), "/home/someone/.cache/gtq");
  setenv("XDG_CACHE_HOME", "/cache", 1);
  EXPECT_EQ(profile_folder(), "/cache/gtq");
  setenv("XDG_CACHE_HOME", "", 1);
  unsetenv("HOME");
  EXPECT_THROW(profile_folder(), Error);
}

}  // namespace
}  // namespace gtq
