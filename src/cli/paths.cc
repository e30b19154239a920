#include "paths.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "gtq/error.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

bool is_program(const fs::path& path) {
  std::error_code ec;
  return fs::is_regular_file(path, ec) && access(path.c_str(), X_OK) == 0;
}

}  // namespace

fs::path executable_path() {
  std::error_code ec;
  fs::path path = fs::read_symlink("/proc/self/exe", ec);
  if (ec) throw Error("cannot find out where gtq itself is (/proc is not mounted); mount it");
  return path;
}

fs::path plugin_path() {
  const fs::path dir = executable_path().parent_path();
  for (const fs::path& path : {dir / "libggml-gtq.so", dir.parent_path() / "lib" / "libggml-gtq.so"}) {
    if (fs::exists(path)) return path;
  }
  throw Error(fmt::format("the plugin libggml-gtq.so is not beside gtq in {}; build it or copy it there",
                          dir.string()));
}

fs::path llama_bin_dir() {
  const fs::path beside = executable_path().parent_path().parent_path() / "llama.cpp" / "bin";
  std::error_code ec;
  return fs::is_directory(beside, ec) ? beside : fs::path(GTQ_LLAMA_CPP_BIN);
}

void make_output_folder(const fs::path& folder) {
  std::error_code ec;
  fs::create_directories(folder, ec);
  if (!ec) return;
  throw Error(fmt::format("cannot make the folder {}: {}; choose another with -o", printable(folder.string()),
                          ec.message()));
}

void check_output_file(const fs::path& output) {
  const fs::path dir = output.has_parent_path() ? output.parent_path() : fs::path(".");
  std::error_code ec;
  if (fs::is_directory(output, ec)) {
    throw Error(fmt::format("{} is a folder; give -o the name of a file", printable(output.string())));
  }
  if (!fs::is_directory(dir, ec)) {
    throw Error(
        fmt::format("there is no folder {}; make it or choose another with -o", printable(dir.string())));
  }
  if (access(dir.c_str(), W_OK) != 0) {
    throw Error(fmt::format("cannot write to {}: {}; choose another place with -o", printable(dir.string()),
                            std::strerror(errno)));
  }
}

fs::path find_program(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    if (is_program(program)) return program;
    throw Error(fmt::format("{} is not a program that can be started; check the path", printable(program)));
  }
  if (fs::path bundled = llama_bin_dir() / program; is_program(bundled)) return bundled;
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable != nullptr ? variable : "";
  while (!rest.empty()) {
    const std::size_t end = rest.find(':');
    const std::string_view dir = rest.substr(0, end);
    if (fs::path path = fs::path(dir.empty() ? "." : dir) / program; is_program(path)) return path;
    rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  }
  throw Error(fmt::format("no program {} in {} or in PATH; check the name or give its path", printable(program),
                          llama_bin_dir().string()));
}

std::string printable(const std::string& text) {
  std::string out = text;
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return out;
}

}  // namespace gtq::cli
