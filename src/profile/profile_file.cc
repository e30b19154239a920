#include "profile/profile_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "gtq/error.h"
#include "profile/profile_format.h"

namespace gtq {
namespace {

namespace format = profile_format;

// A file descriptor that closes itself.
class File {
 public:
  explicit File(int fd) : fd_(fd) {}
  ~File() {
    if (fd_ >= 0) ::close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  int get() const { return fd_; }
  // Closing can be the first to report a failed write (network file systems).
  bool close() { return ::close(std::exchange(fd_, -1)) == 0; }

 private:
  int fd_;
};

// Reads until `size` bytes or the end of the file. -1 on failure, with errno.
std::ptrdiff_t read_fully(int fd, std::uint8_t* out, std::size_t size) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t n = ::read(fd, out + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return -1;
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  return static_cast<std::ptrdiff_t>(done);
}

bool write_fully(int fd, const std::uint8_t* data, std::size_t size) {
  while (size > 0) {
    const ssize_t n = ::write(fd, data, size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return false;
    data += n;
    size -= static_cast<std::size_t>(n);
  }
  return true;
}

[[noreturn]] void throw_damaged(const std::string& path, std::string_view why) {
  throw Error(fmt::format("gtq profile {} is damaged ({}): make it again with `gtq calibrate`", path, why));
}

// `head` is the start of the file, at most kHeadBytes of it.
void check_head(const std::string& path, std::string_view head) {
  if (head.empty())
    throw Error(fmt::format("gtq profile {} is empty: make it again with `gtq calibrate`", path));
  if (head.substr(0, format::kMagic.size()) != format::kMagic.substr(0, head.size())) {
    throw Error(fmt::format(
        "{} is not a GGUF file and so not a gtq profile: give a file made with `gtq calibrate`", path));
  }
  if (head.size() < format::kHeadBytes) throw_damaged(path, "it is cut short");
  if (head.substr(format::kChecksumKeyOffset, format::kChecksumKey.size()) != format::kChecksumKey) {
    throw Error(fmt::format(
        "{} is a GGUF file but not a gtq profile (a model?): make a profile of a model with `gtq calibrate`",
        path));
  }
}

std::string directory_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// The new name survives a power cut only when the directory is on disk too. Not all file systems can do it and
// the file is complete either way, so a failure here is not one of the write.
void sync_directory(const std::string& directory) {
  const File file(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (file.get() >= 0) static_cast<void>(::fsync(file.get()));
}

int create_exclusively(const std::string& path) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  const int fd = ::open(path.c_str(), kFlags, 0666);
  if (fd >= 0 || errno != EEXIST) return fd;
  // Left by a process with the same number that was killed.
  ::unlink(path.c_str());
  return ::open(path.c_str(), kFlags, 0666);
}

}  // namespace

std::vector<std::uint8_t> read_profile_bytes(const std::string& path) {
  // O_NONBLOCK: a named pipe must be refused, not waited for.
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat info = {};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) {
    throw Error(fmt::format("cannot open gtq profile {} ({}): check the path or make it with `gtq calibrate`",
                            path, std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode)) {
    throw Error(fmt::format("{} is {}, not a gtq profile: give a file made with `gtq calibrate`", path,
                            S_ISDIR(info.st_mode) ? "a directory" : "a device or a pipe"));
  }
  const auto throw_unreadable = [&path] {
    throw Error(
        fmt::format("cannot read gtq profile {} ({}): check the disk or make it again with `gtq calibrate`",
                    path, std::strerror(errno)));
  };
  const auto size = static_cast<std::size_t>(info.st_size);
  std::vector<std::uint8_t> bytes(std::min(size, format::kHeadBytes));
  std::ptrdiff_t n = read_fully(file.get(), bytes.data(), bytes.size());
  if (n < 0) throw_unreadable();
  check_head(path, {reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(n)});
  bytes.resize(size);
  n = read_fully(file.get(), bytes.data() + format::kHeadBytes, size - format::kHeadBytes);
  if (n < 0) throw_unreadable();
  if (static_cast<std::size_t>(n) != size - format::kHeadBytes) throw_damaged(path, "it is cut short");
  std::uint64_t stored = 0;
  std::memcpy(&stored, bytes.data() + format::kChecksumOffset, sizeof(stored));
  if (stored != format::checksum(bytes.data(), bytes.size())) throw_damaged(path, "checksum does not match");
  return bytes;
}

void replace_file(const std::string& path, const std::vector<std::uint8_t>& bytes) {
  static std::atomic<unsigned> counter{0};
  const std::string temporary = fmt::format("{}.tmp-{}-{}", path, ::getpid(), counter++);
  const auto fail = [&path](int error) {
    throw Error(fmt::format(
        "cannot write gtq profile {} ({}): check that its directory exists, is writable and has space", path,
        std::strerror(error)));
  };
  File file(create_exclusively(temporary));
  if (file.get() < 0) fail(errno);
  const bool written = write_fully(file.get(), bytes.data(), bytes.size()) && ::fsync(file.get()) == 0 &&
                       file.close() && ::rename(temporary.c_str(), path.c_str()) == 0;
  if (!written) {
    const int error = errno;
    ::unlink(temporary.c_str());
    fail(error);
  }
  sync_directory(directory_of(path));
}

}  // namespace gtq
