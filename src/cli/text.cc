#include "text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "gtq/error.h"
#include "paths.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

// Bytes of the character at the start of `text`; 0 when it is not UTF-8 or cut.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  const std::size_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < n) return 0;
  std::uint32_t code = lead & (0x7fu >> n);
  for (std::size_t i = 1; i < n; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3fu);
  }
  const bool overlong = code < (n == 4 ? 0x10000u : n == 3 ? 0x800u : 0x80u);
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return overlong || surrogate || code > 0x10ffff ? 0 : n;
}

}  // namespace

std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t n = character_bytes(text.substr(at, 4));
    if (n == 0) return at;
    at += n;
  }
  return at;
}

std::string read_text_file(const std::string& path, std::size_t max_bytes) {
  const std::string name = printable(path);
  std::error_code ec;
  if (!fs::exists(path, ec)) throw Error(fmt::format("there is no text {}; check the path", name));
  if (fs::is_directory(path, ec)) throw Error(fmt::format("{} is a folder; give a text file", name));
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Error(fmt::format("cannot open {}: {}", name, std::strerror(errno)));
  std::string text(max_bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) throw Error(fmt::format("cannot read {}: {}", name, std::strerror(errno)));
  text.resize(static_cast<std::size_t>(file.gcount()));
  const std::size_t valid = valid_utf8_prefix(text);
  const bool cut = text.size() == max_bytes && text.size() - valid < 4;
  if (valid < text.size() && !cut) {
    throw Error(fmt::format("{} is not UTF-8 text (byte {}); convert it or give another with -f", name, valid));
  }
  text.resize(valid);
  return text;
}

std::vector<std::vector<llama_token>> make_chunks(const std::vector<llama_token>& tokens, llama_token bos,
                                                  std::size_t chunk_tokens, std::size_t n_tokens) {
  const std::size_t n_bos = bos == LLAMA_TOKEN_NULL ? 0 : 1;
  const std::size_t per_chunk = chunk_tokens - n_bos;
  const std::size_t all_chunks = (tokens.size() + per_chunk - 1) / per_chunk;
  const std::size_t total = std::min(tokens.size() + all_chunks * n_bos, n_tokens);
  const std::size_t n_chunks = (total + chunk_tokens - 1) / chunk_tokens;
  std::vector<std::vector<llama_token>> chunks;
  for (std::size_t c = 0; c < n_chunks; ++c) {
    const bool last = c + 1 == n_chunks;
    const std::size_t last_text = std::max(total - (n_chunks - 1) * chunk_tokens, n_bos) - n_bos;
    const std::size_t begin = n_chunks == 1 ? 0 : c * (tokens.size() - last_text) / (n_chunks - 1);
    const auto from = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    std::vector<llama_token> chunk(n_bos, bos);
    chunk.insert(chunk.end(), from, from + static_cast<std::ptrdiff_t>(last ? last_text : per_chunk));
    chunks.push_back(std::move(chunk));
  }
  return chunks;
}

}  // namespace gtq::cli
