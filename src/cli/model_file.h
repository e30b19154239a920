// A model on disk: checked before llama.cpp sees it, and recognised again by a fingerprint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace gtq::cli {

// Throws Error when `path` is missing, not readable, or not a GGUF file.
void check_model_file(const std::filesystem::path& path);

// The file and, when its name says <name>-00001-of-<count>.gguf, the other parts that exist.
std::vector<std::filesystem::path> model_parts(const std::filesystem::path& path);

// FNV-1a (64 bits) over, for each part: its size, all bytes before the tensor data, and 64 blocks of 4 KB
// spread evenly over the data. Reading all of it would cost more than a profile saves; a model trained or
// quantized differently differs in every block.
std::uint64_t model_fingerprint(const std::filesystem::path& path);

}  // namespace gtq::cli
