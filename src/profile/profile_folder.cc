#include "profile/profile_folder.h"

#include <cstdlib>
#include <set>
#include <string_view>
#include <utility>

#include "gtq/error.h"

namespace gtq {
namespace fs = std::filesystem;
namespace {

std::set<fs::path> profile_files(const fs::path& folder) {
  std::set<fs::path> files;
  std::error_code ec;
  for (fs::directory_iterator i(folder, ec), end; !ec && i != end; i.increment(ec)) {
    if (i->path().native().ends_with(".gtq.gguf")) files.insert(i->path());
  }
  return files;
}

}  // namespace

fs::path profile_folder() {
  const char* xdg = std::getenv("XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg != '\0') return fs::path(xdg) / "gtq";
  const char* home = std::getenv("HOME");
  if (home != nullptr && *home != '\0') return fs::path(home) / ".cache" / "gtq";
  throw Error("no folder for profiles: set HOME or XDG_CACHE_HOME");
}

std::optional<FoundProfile> find_profile(const fs::path& folder,
                                         const std::function<bool(const Profile&)>& fits) {
  std::optional<FoundProfile> best;
  for (const fs::path& path : profile_files(folder)) {
    try {
      Profile profile = read_profile(path);
      if ((!best || profile.n_tokens > best->profile.n_tokens) && fits(profile)) {
        best = {path, std::move(profile)};
      }
    } catch (const Error&) {  // cut, or of another version
    }
  }
  return best;
}

}  // namespace gtq
