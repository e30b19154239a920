// Calibration text: reading, checking, and cutting its tokens into chunks.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "llama.h"

namespace gtq::cli {

// The first max_bytes of a UTF-8 file, cut at a character. Throws Error when it cannot be read or is not UTF-8.
std::string read_text_file(const std::string& path, std::size_t max_bytes);

// Byte offset of the first sequence that is not UTF-8, or the size.
std::size_t valid_utf8_prefix(std::string_view text);

// Cuts tokens into chunks of chunk_tokens, each beginning with `bos` unless that is LLAMA_TOKEN_NULL, n_tokens
// at most altogether. A text longer than needed is sampled evenly, so that its end counts as much as its
// beginning.
std::vector<std::vector<llama_token>> make_chunks(const std::vector<llama_token>& tokens, llama_token bos,
                                                  std::size_t chunk_tokens, std::size_t n_tokens);

}  // namespace gtq::cli
