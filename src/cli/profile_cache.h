// Profiles made on first use and kept in the user's cache.
#pragma once

#include <filesystem>

namespace gtq::cli {

// The profile of this model in profile_folder(), made now when there is none. Throws Error when the model is no
// GGUF or the cache cannot be written; exits with calibration's own code when calibration has failed and said
// why.
std::filesystem::path cached_profile(const std::filesystem::path& model);

// `gtq calibrate` in a process of its own, so that the memory it takes is gone afterwards. `text` empty: the
// text inside the program. Failures as above.
void calibrate_in_child(const std::filesystem::path& model, const std::filesystem::path& text,
                        const std::filesystem::path& profile);

// The profile that a measurement uses: `given` as it is; else made from the text `calibrate`, in the folder
// `output`; else that of the cache. Absolute, and read once: a bad file is refused before the long part.
std::filesystem::path choose_profile(const std::filesystem::path& model, const std::filesystem::path& given,
                                     const std::filesystem::path& calibrate,
                                     const std::filesystem::path& output);

}  // namespace gtq::cli
