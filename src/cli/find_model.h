// Which model file a llama.cpp command line will load, read the way llama.cpp b11434 reads it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace gtq::cli {

// Looks at the arguments, then at llama.cpp's environment variables. nullopt: no model is named. Throws Error
// when one is named that is not on this machine yet, or when several are.
std::optional<std::filesystem::path> find_model(const std::vector<std::string>& command);
// Whether the command names a second model, for speculative decoding.
bool has_draft_model(const std::vector<std::string>& command);

}  // namespace gtq::cli
