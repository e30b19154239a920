#include "gtq/profile.h"

#include <gguf.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gtq/error.h"
#include "profile/profile_format.h"
#include "profile/random_profile.h"

namespace gtq {
namespace {

namespace fs = std::filesystem;
using testing::random_profile;

class ProfileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::temp_directory_path() / ("gtq-profile-" + std::to_string(::getpid()));
    fs::create_directories(directory_);
    path_ = (directory_ / "p.gguf").string();
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string bytes() const {
    std::ifstream in(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void set_bytes(const std::string& bytes) const { std::ofstream(path_, std::ios::binary) << bytes; }

  // Makes the checksum right again, as a program with a wrong idea of the format would.
  void set_bytes_with_checksum(std::string bytes) const {
    const std::uint64_t sum =
        profile_format::checksum(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
    std::memcpy(bytes.data() + 48, &sum, sizeof(sum));
    set_bytes(bytes);
  }

  // The message of read_profile, or "" when it accepts the file.
  static std::string read_error(const std::string& path) {
    try {
      read_profile(path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }
  std::string read_error() const { return read_error(path_); }

  static std::string write_error(const Profile& profile, const std::string& path) {
    try {
      write_profile(profile, path);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

  int n_files() const {
    return static_cast<int>(std::distance(fs::directory_iterator(directory_), fs::directory_iterator()));
  }

  fs::path directory_;
  std::string path_;
};

void expect_equal(const LayerProfile& a, const LayerProfile& b) {
  EXPECT_EQ(a.layer, b.layer);
  EXPECT_EQ(a.n_q_heads, b.n_q_heads);
  EXPECT_EQ(a.n_kv_heads, b.n_kv_heads);
  EXPECT_EQ(a.head_dim_k, b.head_dim_k);
  EXPECT_EQ(a.head_dim_v, b.head_dim_v);
  EXPECT_EQ(a.rope, b.rope);
  EXPECT_EQ(a.energy_q, b.energy_q);
  EXPECT_EQ(a.energy_k, b.energy_k);
  EXPECT_EQ(a.energy_e, b.energy_e);
  EXPECT_EQ(a.mean_keys, b.mean_keys);
  EXPECT_EQ(a.rms_v, b.rms_v);
}

TEST_F(ProfileTest, RoundTrip) {
  const Profile written = random_profile(1);
  write_profile(written, path_);
  const Profile read = read_profile(path_);
  EXPECT_EQ(read.model_name, written.model_name);
  EXPECT_EQ(read.fingerprint, written.fingerprint);
  EXPECT_EQ(read.n_tokens, written.n_tokens);
  EXPECT_EQ(read.text_source, written.text_source);
  ASSERT_EQ(read.layers.size(), written.layers.size());
  for (std::size_t i = 0; i < read.layers.size(); ++i) expect_equal(read.layers[i], written.layers[i]);
  EXPECT_EQ(n_files(), 1);
}

TEST_F(ProfileTest, SameProfileGivesSameBytes) {
  write_profile(random_profile(1), path_);
  const std::string first = bytes();
  write_profile(random_profile(1), path_);
  EXPECT_EQ(bytes(), first);
  write_profile(random_profile(2), path_);
  EXPECT_NE(bytes(), first);
}

TEST_F(ProfileTest, ChecksumWithoutAFile) {
  write_profile(random_profile(1), path_);
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, bytes().data() + profile_format::kChecksumOffset, sizeof checksum);
  EXPECT_EQ(profile_checksum(random_profile(1)), checksum);
  EXPECT_EQ(profile_checksum(read_profile(path_)), checksum);
  EXPECT_NE(profile_checksum(random_profile(2)), checksum);
}

// As another program would write the same profile: docs/format.md leaves the value of general.type open.
TEST_F(ProfileTest, ChecksumOfTheFile) {
  write_profile(random_profile(1), path_);
  std::string other = bytes();
  const std::size_t type = other.find("profile", other.find("general.type"));
  other.replace(type, 7, "another");
  set_bytes_with_checksum(other);
  std::uint64_t checksum = 0;
  std::memcpy(&checksum, bytes().data() + profile_format::kChecksumOffset, sizeof checksum);
  EXPECT_EQ(profile_checksum(read_profile(path_)), checksum);
  EXPECT_NE(profile_checksum(random_profile(1)), checksum);
}

TEST_F(ProfileTest, NoChecksumOfABadProfile) {
  Profile profile = random_profile(1);
  profile.layers.clear();
  try {
    profile_checksum(profile);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(
        error.what(),
        "this calibration gave no good profile (it holds no layers): calibrate again with another text");
  }
}

TEST_F(ProfileTest, FindLayer) {
  const Profile profile = random_profile(1);
  EXPECT_EQ(profile.find_layer(0), &profile.layers[0]);
  EXPECT_EQ(profile.find_layer(3), &profile.layers[1]);
  for (const int absent : {-1, 1, 2, 4}) EXPECT_EQ(profile.find_layer(absent), nullptr) << absent;
}

// Layout promised by docs/format.md, read without the library.
TEST_F(ProfileTest, StockToolsSeeTheDocumentedNames) {
  const Profile profile = random_profile(1);
  write_profile(profile, path_);
  EXPECT_EQ(bytes().substr(32, 12), "gtq.checksum");
  gguf_context* gguf = gguf_init_from_file(path_.c_str(), {true, nullptr});
  ASSERT_NE(gguf, nullptr);
  EXPECT_STREQ(gguf_get_key(gguf, 0), "gtq.checksum");
  EXPECT_STREQ(gguf_get_val_str(gguf, gguf_find_key(gguf, "general.architecture")), "gtq-profile");
  const std::int64_t means = gguf_find_tensor(gguf, "layer.0.mean_keys");
  ASSERT_GE(means, 0);
  const std::int64_t* ne = gguf_get_tensor_ne(gguf, means);
  EXPECT_EQ(std::vector<std::int64_t>(ne, ne + 4), (std::vector<std::int64_t>{32, 2, 2, 1}));
  const std::size_t at = gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, means);
  EXPECT_EQ(std::memcmp(bytes().data() + at, profile.layers[0].mean_keys.data(), 32 * 2 * 2 * sizeof(float)),
            0);
  EXPECT_LT(gguf_find_tensor(gguf, "layer.0.freq_factors"), 0);
  EXPECT_GE(gguf_find_tensor(gguf, "layer.3.freq_factors"), 0);
  gguf_free(gguf);
}

// Published test vectors of FNV-1a; and every byte counts but the checksum's own.
TEST_F(ProfileTest, ChecksumIsFnv1a) {
  EXPECT_EQ(profile_format::checksum(nullptr, 0), 0xcbf29ce484222325u);
  const auto* foobar = reinterpret_cast<const std::uint8_t*>("foobar");
  EXPECT_EQ(profile_format::checksum(foobar, 6), 0x85944171f73967e8u);
  std::vector<std::uint8_t> file(100, 7);
  const std::uint64_t sum = profile_format::checksum(file.data(), file.size());
  for (std::size_t i = 0; i < file.size(); ++i) {
    const bool own = i >= 48 && i < 56;
    file[i] = 8;
    EXPECT_EQ(profile_format::checksum(file.data(), file.size()) == sum, own) << i;
    file[i] = 7;
  }
}

TEST_F(ProfileTest, RefusesFilesCutAtEveryLength) {
  write_profile(random_profile(1), path_);
  const std::string whole = bytes();
  for (std::size_t size = whole.size(); size-- > 0;) {
    fs::resize_file(path_, size);
    const std::string error = read_error();
    ASSERT_NE(error, "") << size;
    if (size >= 4) {
      ASSERT_NE(error.find("is damaged"), std::string::npos) << size << ": " << error;
    }
  }
  set_bytes(whole + '\0');
  EXPECT_NE(read_error().find("checksum does not match"), std::string::npos);
  set_bytes(whole);
  EXPECT_EQ(read_error(), "");
}

TEST_F(ProfileTest, RefusesAnyChangedByte) {
  write_profile(random_profile(1), path_);
  const std::string whole = bytes();
  ASSERT_LT(whole.size(), 20000u);
  std::fstream file(path_, std::ios::binary | std::ios::in | std::ios::out);
  const auto set_byte = [&file](std::size_t i, int byte) {
    file.seekp(static_cast<std::streamoff>(i));
    file.put(static_cast<char>(byte)).flush();
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const int mask : {0x01, 0xff}) {
      set_byte(i, whole[i] ^ mask);
      ASSERT_NE(read_error(), "") << "byte " << i << " mask " << mask;
    }
    set_byte(i, whole[i]);
  }
  EXPECT_EQ(read_error(), "");
}

// With a checksum that fits, the parser and the checks behind it stand alone: any answer but a crash.
TEST_F(ProfileTest, SurvivesChangedBytesUnderAValidChecksum) {
  write_profile(random_profile(1), path_);
  const std::string whole = bytes();
  const std::size_t data_begin = whole.find("layer.3.freq_factors") + 64;
  int n_refused = 0;
  ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr);  // its parser tells of every refusal
  for (std::size_t i = 0; i < data_begin; ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x41);
    set_bytes_with_checksum(changed);
    if (read_error() != "") ++n_refused;
  }
  ggml_log_set(nullptr, nullptr);
  EXPECT_GT(n_refused, static_cast<int>(data_begin / 2));
}

TEST_F(ProfileTest, NamesWhatTheFileIs) {
  const auto expect_error = [this](const std::string& path, const char* part) {
    const std::string error = read_error(path);
    EXPECT_NE(error.find(part), std::string::npos) << error;
    EXPECT_NE(error.find(path), std::string::npos) << error;
    EXPECT_NE(error.find("gtq calibrate"), std::string::npos) << error;
  };
  expect_error(path_, "No such file or directory");
  expect_error(directory_.string(), "is a directory");
  expect_error("/dev/null", "a device or a pipe");
  const std::string pipe = (directory_ / "pipe").string();
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  expect_error(pipe, "a device or a pipe");
  set_bytes("");
  expect_error(path_, "is empty");
  set_bytes("{\"json\": true}");
  expect_error(path_, "is not a GGUF file");
}

TEST_F(ProfileTest, RefusesAModel) {
  gguf_context* gguf = gguf_init_empty();
  gguf_set_val_str(gguf, "general.architecture", "llama");
  gguf_set_val_str(gguf, "general.name", "a model and no profile");
  ASSERT_TRUE(gguf_write_to_file(gguf, path_.c_str(), false));
  gguf_free(gguf);
  EXPECT_NE(read_error().find("is a GGUF file but not a gtq profile"), std::string::npos) << read_error();
}

// Rewrites the file through ggml with something changed.
class ProfileMetadataTest : public ProfileTest {
 protected:
  std::string error_with(const std::function<void(gguf_context*)>& change) {
    write_profile(random_profile(1), path_);
    ggml_context* tensors = nullptr;
    gguf_context* original = gguf_init_from_file(path_.c_str(), {false, &tensors});
    gguf_context* gguf = gguf_init_empty();
    gguf_set_kv(gguf, original);
    for (std::int64_t i = 0; i < gguf_get_n_tensors(original); ++i) {
      gguf_add_tensor(gguf, ggml_get_tensor(tensors, gguf_get_tensor_name(original, i)));
    }
    change(gguf);
    gguf_write_to_file(gguf, path_.c_str(), false);
    gguf_free(gguf);
    gguf_free(original);
    ggml_free(tensors);
    set_bytes_with_checksum(bytes());
    return read_error();
  }
};

TEST_F(ProfileMetadataTest, AcceptsUnknownKeys) {
  EXPECT_EQ(error_with([](gguf_context* g) { gguf_set_val_str(g, "gtq.note", "hello"); }), "");
}

TEST_F(ProfileMetadataTest, NamesANewerVersion) {
  const std::string error = error_with([](gguf_context* g) { gguf_set_val_u32(g, "gtq.format_version", 2); });
  EXPECT_NE(error.find("has format version 2 but this gtq reads version 1"), std::string::npos) << error;
}

TEST_F(ProfileMetadataTest, RefusesWrongMetadata) {
  struct Case {
    const char* part;
    std::function<void(gguf_context*)> change;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Case cases[] = {
      {"format version is 0", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.format_version", 0); }},
      {"gtq.format_version is missing", [](gguf_context* g) { gguf_remove_key(g, "gtq.format_version"); }},
      {"gtq.format_version is of the wrong",
       [](gguf_context* g) { gguf_set_val_u64(g, "gtq.format_version", 1); }},
      {"general.architecture", [](gguf_context* g) { gguf_set_val_str(g, "general.architecture", "llama"); }},
      {"gtq.model_name is of the wrong", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.model_name", 1); }},
      {"gtq.layers is of the wrong", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layers", 1); }},
      {"gtq.layers is of the wrong",
       [](gguf_context* g) { gguf_set_arr_data(g, "gtq.layers", GGUF_TYPE_FLOAT32, "00000000", 2); }},
      {"not ascending",
       [](gguf_context* g) {
         const std::uint32_t twice[] = {3, 3};
         gguf_set_arr_data(g, "gtq.layers", GGUF_TYPE_UINT32, twice, 2);
       }},
      {"no layers", [](gguf_context* g) { gguf_set_arr_data(g, "gtq.layers", GGUF_TYPE_UINT32, nullptr, 0); }},
      {"n_tokens is 0", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.n_tokens", 0); }},
      {"out of range", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.n_tokens", 0x80000000u); }},
      {"n_q_heads is 3", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.n_q_heads", 3); }},
      {"n_kv_heads is 0", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.n_kv_heads", 0); }},
      {"head dimension is 24", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.head_dim_k", 24); }},
      {"wrong shape", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.head_dim_k", 64); }},
      {"wrong shape", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.3.n_rot", 32); }},
      {"RoPE mode", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.rope_mode", 1); }},
      {"even", [](gguf_context* g) { gguf_set_val_u32(g, "gtq.layer.0.n_rot", 34); }},
      {"base", [](gguf_context* g) { gguf_set_val_f32(g, "gtq.layer.0.freq_base", -1); }},
      {"YaRN", [nan](gguf_context* g) { gguf_set_val_f32(g, "gtq.layer.0.beta_fast", nan); }},
      {"layer.0.energy_q is not F32",
       [](gguf_context* g) { gguf_set_tensor_type(g, "layer.0.energy_q", GGML_TYPE_I32); }},
  };
  for (const Case& c : cases) {
    const std::string error = error_with(c.change);
    EXPECT_NE(error.find(c.part), std::string::npos) << c.part << " -> " << error;
    EXPECT_NE(error.find("is not valid ("), std::string::npos) << error;
  }
}

TEST_F(ProfileMetadataTest, RefusesWrongNumbersInTensors) {
  for (const float wrong : {-1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    const std::vector<float> data(1000, wrong);  // ggml keeps the pointer
    for (const char* name : {"layer.0.energy_q", "layer.0.energy_k", "layer.3.energy_e", "layer.3.rms_v"}) {
      const std::string error =
          error_with([&](gguf_context* g) { gguf_set_tensor_data(g, name, data.data()); });
      EXPECT_NE(error.find(name + 8), std::string::npos) << name << " " << wrong << ": " << error;
    }
  }
  const std::vector<float> negative(1000, -1.0f);
  EXPECT_EQ(error_with([&](gguf_context* g) { gguf_set_tensor_data(g, "layer.0.mean_keys", negative.data()); }),
            "");
}

TEST_F(ProfileTest, WillNotWriteAnInvalidProfile) {
  const auto expect_refused = [this](const std::function<void(Profile&)>& change) {
    Profile profile = random_profile(1);
    change(profile);
    EXPECT_NE(write_error(profile, path_).find("will not write"), std::string::npos);
    EXPECT_EQ(n_files(), 0);
  };
  expect_refused([](Profile& p) { p.layers[0].energy_e[3] = std::nanf(""); });
  expect_refused([](Profile& p) { p.layers[0].energy_q.pop_back(); });
  expect_refused([](Profile& p) { p.layers[1].mean_keys.push_back(0); });
  expect_refused([](Profile& p) { p.layers[1].layer = 0; });
  expect_refused([](Profile& p) { p.layers.clear(); });
}

TEST_F(ProfileTest, SaysWhyItCannotWrite) {
  const Profile profile = random_profile(1);
  EXPECT_NE(write_error(profile, (directory_ / "none" / "p").string()).find("No such file or directory"),
            std::string::npos);
  EXPECT_NE(write_error(profile, directory_.string()).find("directory"), std::string::npos);
  EXPECT_EQ(n_files(), 0);
}

// A full disk, by the limit on file sizes of a child process: the old file stays, nothing is left beside it.
TEST_F(ProfileTest, KeepsTheOldFileWhenTheDiskIsFull) {
  write_profile(random_profile(1), path_);
  const std::string before = bytes();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const std::string error = write_error(random_profile(2), path_);
    ::_exit(error.find(std::strerror(EFBIG)) != std::string::npos ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  EXPECT_EQ(bytes(), before);
  EXPECT_EQ(n_files(), 1);
}

}  // namespace
}  // namespace gtq
