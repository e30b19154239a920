// The user's folder of profiles, shared by `gtq run` and the plugin.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>

#include "gtq/profile.h"

namespace gtq {

// ${XDG_CACHE_HOME:-~/.cache}/gtq. Throws Error when neither XDG_CACHE_HOME nor HOME is set.
std::filesystem::path profile_folder();

struct FoundProfile {
  std::filesystem::path path;
  Profile profile;
};

// Of the profiles in `folder` that `fits` accepts, the one over most tokens (the first by name of several).
// Files that are not a good profile are passed over; so is a folder that is missing.
std::optional<FoundProfile> find_profile(const std::filesystem::path& folder,
                                         const std::function<bool(const Profile&)>& fits);

}  // namespace gtq
