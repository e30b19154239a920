#include "profile_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "gtq/error.h"
#include "gtq/profile.h"
#include "llama.h"
#include "model_file.h"
#include "paths.h"
#include "profile/profile_folder.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

volatile std::sig_atomic_t g_child = 0;

// The child says what has to be said; this process only has to outlive it.
extern "C" void gtq_cli_forward_signal(int signal) {
  if (g_child > 0) kill(static_cast<pid_t>(g_child), signal);
}

[[noreturn]] void exec_calibrate(const fs::path& model, const fs::path& text, const fs::path& output) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) std::signal(signal, SIG_DFL);
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);  // standard output belongs to the program to come
  if (null >= 0) dup2(null, STDOUT_FILENO);
  const std::string self = executable_path();
  if (text.empty()) {
    execl(self.c_str(), "gtq", "calibrate", "-m", model.c_str(), "-o", output.c_str(), nullptr);
  } else {
    execl(self.c_str(), "gtq", "calibrate", "-m", model.c_str(), "-o", output.c_str(), "-f", text.c_str(),
          nullptr);
  }
  _exit(kExitError);
}

// Returns the wait status.
int wait_for_calibrate(const fs::path& model, const fs::path& text, const fs::path& output) {
  const pid_t child = fork();
  if (child < 0) throw Error(fmt::format("cannot start calibration: {}", std::strerror(errno)));
  if (child == 0) exec_calibrate(model, text, output);
  g_child = child;
  struct sigaction old_int = {}, old_term = {}, old_hup = {}, forward = {};
  forward.sa_handler = gtq_cli_forward_signal;
  sigaction(SIGINT, &forward, &old_int);
  sigaction(SIGTERM, &forward, &old_term);
  sigaction(SIGHUP, &forward, &old_hup);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  g_child = 0;
  sigaction(SIGINT, &old_int, nullptr);
  sigaction(SIGTERM, &old_term, nullptr);
  sigaction(SIGHUP, &old_hup, nullptr);
  return status;
}

bool is_good_profile(const fs::path& path) {
  std::error_code ec;
  if (!fs::exists(path, ec)) return false;
  try {
    read_profile(path);
    return true;
  } catch (const Error&) {
    return false;  // cut, or from another version: the cache is ours, make it again
  }
}

void make_profile(const fs::path& model, const fs::path& profile) {
  std::error_code ec;
  fs::create_directories(profile.parent_path(), ec);
  if (ec) {
    throw Error(fmt::format("cannot make the folder {}: {}; set XDG_CACHE_HOME or give --profile",
                            profile.parent_path().string(), ec.message()));
  }
  if (isatty(STDERR_FILENO)) {
    fmt::print(stderr, "gtq: first use of {}, calibrating (once)\n", printable(model.filename().string()));
  }
  calibrate_in_child(model, {}, profile);
}

}  // namespace

void calibrate_in_child(const fs::path& model, const fs::path& text, const fs::path& profile) {
  const int status = wait_for_calibrate(model, text, profile);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
  if (WIFEXITED(status)) std::exit(WEXITSTATUS(status));
  throw Error(fmt::format("calibration of {} was stopped by signal {}{}", printable(model.string()),
                          WTERMSIG(status),
                          WTERMSIG(status) == SIGKILL ? "; is there enough memory for the model?" : ""));
}

fs::path cached_profile(const fs::path& model) {
  check_model_file(model);
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  const std::uint64_t key = model_fingerprint(model);
  const fs::path path = profile_folder() / fmt::format("{:.100}-{:016x}.gtq.gguf", model.stem().string(), key);
  if (!is_good_profile(path)) make_profile(model, path);
  return path;
}

fs::path choose_profile(const fs::path& model, const fs::path& given, const fs::path& calibrate,
                        const fs::path& output) {
  fs::path profile = given;
  if (given.empty() && calibrate.empty()) profile = cached_profile(model);
  if (given.empty() && !calibrate.empty()) {
    profile = output / "profile.gtq.gguf";
    calibrate_in_child(model, calibrate, profile);
  }
  profile = fs::absolute(profile);
  read_profile(profile.string());
  return profile;
}

}  // namespace gtq::cli
