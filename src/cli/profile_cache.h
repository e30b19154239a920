// Profiles made on first use and kept in the user's cache.
#pragma once

#include <filesystem>

namespace gtq::cli {

// The profile of this model in cache_dir(), made now when there is none. Throws Error when the model is no GGUF
// or the cache cannot be written; exits with calibration's own code when calibration has failed and said why.
std::filesystem::path cached_profile(const std::filesystem::path& model);

// `gtq calibrate` in a process of its own, so that the memory it takes is gone afterwards. `text` empty: the
// text inside the program. Failures as above.
void calibrate_in_child(const std::filesystem::path& model, const std::filesystem::path& text,
                        const std::filesystem::path& profile);

}  // namespace gtq::cli
