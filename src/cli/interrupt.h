// Ctrl-C and kill while a verb works: leave nothing behind, say one line, exit 130.
#pragma once

#include <filesystem>

namespace gtq::cli {

// From construction to destruction SIGINT, SIGTERM and SIGHUP end the process with exit code 130 and the
// sentence. One guard at a time.
class InterruptGuard {
 public:
  // `sentence` is a literal: "interrupted, ...". A file of that name is removed before the process ends.
  explicit InterruptGuard(const char* sentence, const std::filesystem::path& scratch = {});
  ~InterruptGuard();
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  // Between defer() and check() a signal is only noted, so that a file being written can be removed first.
  void defer();
  bool interrupted() const;
  [[noreturn]] static void exit_interrupted();
};

}  // namespace gtq::cli
