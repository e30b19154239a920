#include "model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <regex>
#include <string>

#include "gguf.h"
#include "gtq/error.h"
#include "paths.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

constexpr std::uint64_t kBlocks = 64;
constexpr std::uint64_t kBlockBytes = 4096;

struct Fnv1a {
  std::uint64_t state = 0xcbf29ce484222325u;

  void add(const char* data, std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) {
      state = (state ^ static_cast<unsigned char>(data[i])) * 0x100000001b3u;
    }
  }
  void add(std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
      const char byte = static_cast<char>(value >> shift);
      add(&byte, 1);
    }
  }
};

std::uint64_t data_offset(const fs::path& path) {
  const gguf_init_params params{.no_alloc = true, .ctx = nullptr};
  const std::unique_ptr<gguf_context, decltype(&gguf_free)> gguf(gguf_init_from_file(path.c_str(), params),
                                                                 &gguf_free);
  if (!gguf) {
    throw Error(fmt::format("{} starts like a GGUF file but its header is damaged; get the file again",
                            printable(path.string())));
  }
  return gguf_get_data_offset(gguf.get());
}

void add_file(const fs::path& path, Fnv1a& hash) {
  const std::uint64_t size = fs::file_size(path);
  const std::uint64_t start = std::min<std::uint64_t>(data_offset(path), size);
  std::ifstream file(path, std::ios::binary);
  std::vector<char> block(kBlockBytes);
  const auto add_range = [&](std::uint64_t from, std::uint64_t n) {
    file.seekg(static_cast<std::streamoff>(from));
    while (n > 0) {
      const std::uint64_t part = std::min(n, kBlockBytes);
      if (!file.read(block.data(), static_cast<std::streamsize>(part))) {
        throw Error(fmt::format("cannot read {}: {}", printable(path.string()), std::strerror(errno)));
      }
      hash.add(block.data(), part);
      n -= part;
    }
  };
  hash.add(size);
  add_range(0, start);
  const std::uint64_t data = size - start;
  if (data <= kBlocks * kBlockBytes) return add_range(start, data);
  for (std::uint64_t i = 0; i < kBlocks; ++i) {
    add_range(start + (data - kBlockBytes) / (kBlocks - 1) * i, kBlockBytes);
  }
}

}  // namespace

void check_model_file(const fs::path& path) {
  const std::string name = printable(path.string());
  std::error_code ec;
  if (!fs::exists(path, ec)) throw Error(fmt::format("there is no model {}; check the path", name));
  if (fs::is_directory(path, ec)) throw Error(fmt::format("{} is a folder; give the .gguf file in it", name));
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(fmt::format("cannot open {}: {}", name, std::strerror(errno)));
  char magic[4] = {};
  file.read(magic, sizeof magic);
  if (!file || std::memcmp(magic, "GGUF", sizeof magic) != 0) {
    throw Error(fmt::format("{} is not a GGUF file; give a model that llama.cpp can load", name));
  }
}

std::vector<fs::path> model_parts(const fs::path& path) {
  static const std::regex kPart("(.+-)([0-9]{5})(-of-)([0-9]{5})(\\.gguf)");
  const std::string name = path.filename().string();
  std::smatch m;
  if (!std::regex_match(name, m, kPart)) return {path};
  std::vector<fs::path> parts;
  const int count = std::stoi(m[4].str());
  for (int i = 1; i <= count; ++i) {
    fs::path part =
        path.parent_path() / fmt::format("{}{:05}{}{}{}", m[1].str(), i, m[3].str(), m[4].str(), m[5].str());
    if (fs::exists(part)) parts.push_back(std::move(part));
  }
  return parts;
}

std::uint64_t model_fingerprint(const fs::path& path) {
  Fnv1a hash;
  for (const fs::path& part : model_parts(path)) {
    check_model_file(part);
    add_file(part, hash);
  }
  return hash.state;
}

}  // namespace gtq::cli
