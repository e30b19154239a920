// gtq calibrate: run the model over a text, let the plugin's recorder watch, write the profile.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>

#include "embedded.h"
#include "gtq/error.h"
#include "interrupt.h"
#include "llama_session.h"
#include "model_file.h"
#include "paths.h"
#include "text.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t kMaxTextBytes = std::size_t{64} << 20;  // far more than any calibration needs
constexpr int kMinChunk = 16;
constexpr int kBytesPerToken = 64;  // at most; what follows cannot be reached with the tokens asked for

std::string read_text(const CalibrateOptions& options) {
  if (options.text.empty()) return std::string(default_text());
  const std::size_t enough = static_cast<std::size_t>(options.n_tokens) * kBytesPerToken;
  return read_text_file(options.text, std::min(kMaxTextBytes, enough));
}

fs::path output_path(const CalibrateOptions& options) {
  if (!options.output.empty()) return options.output;
  fs::path path = options.model;
  if (path.extension() == ".gguf") path.replace_extension();
  path += ".gtq.gguf";
  return path;
}

void check_output(const fs::path& output, const fs::path& model) {
  check_output_file(output);
  std::error_code ec;
  if (fs::equivalent(output, model, ec)) {
    throw Error(fmt::format("{} is the model itself; give -o another name", printable(output.string())));
  }
}

class Progress {
 public:
  explicit Progress(std::size_t total) : total_(total), shown_(isatty(STDERR_FILENO) != 0) { show(0); }
  ~Progress() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(std::size_t done) const {
    if (!shown_) return;
    constexpr std::size_t kWidth = 40;
    const std::size_t filled = kWidth * done / total_;
    fmt::print(stderr, "\rcalibrating [{:#<{}}{:.<{}}] {}/{} tokens", "", filled, "", kWidth - filled, done,
               total_);
    std::fflush(stderr);
  }

 private:
  std::size_t total_;
  bool shown_;
};

// Feeds at most n_tokens tokens, BOS included, in chunks. Returns how many were fed.
std::size_t feed_text(LlamaSession& session, const std::string& text, const CalibrateOptions& options) {
  const auto chunk_tokens =
      static_cast<std::size_t>(std::clamp(session.max_context(), kMinChunk, options.chunk_tokens));
  const auto chunks = make_chunks(session.tokenize(text), session.bos(), chunk_tokens,
                                  static_cast<std::size_t>(options.n_tokens));
  std::size_t total = 0;
  for (const auto& chunk : chunks) total += chunk.size();
  if (total < static_cast<std::size_t>(kMinTokens)) {
    throw Error(fmt::format("the text {} has {} tokens; at least {} are needed, {} are better",
                            options.text.empty() ? "inside gtq" : printable(options.text), total, kMinTokens,
                            options.n_tokens));
  }
  session.open_context({.n_tokens = static_cast<int>(chunks.front().size()),
                        .n_threads = options.n_threads > 0 ? options.n_threads : default_threads()});
  const Progress progress(total);
  std::size_t done = 0;
  for (const auto& chunk : chunks) {
    session.clear();
    session.feed(chunk);
    done += chunk.size();
    progress.show(done);
  }
  return total;
}

// The profile appears under its name complete or not at all, also when interrupted.
void write_result(const Recorder& recorder, const LlamaSession& session, const CalibrateOptions& options,
                  InterruptGuard& guard) {
  const fs::path output = output_path(options);
  const std::string temporary = fmt::format("{}.tmp-{}", output.string(), getpid());
  const std::string source = options.text.empty() ? "default" : fs::path(options.text).filename().string();
  char error[1024] = {};
  guard.defer();
  const bool ok =
      recorder.finish(temporary.c_str(), session.model_name().c_str(), source.c_str(), error, sizeof error);
  const auto give_up = [&](std::string message) {
    unlink(temporary.c_str());
    for (std::size_t at; (at = message.find(temporary)) != std::string::npos;) {
      message.replace(at, temporary.size(), output.string());
    }
    throw Error(message);
  };
  if (!ok) give_up(error[0] != '\0' ? error : "the plugin could not make a profile and does not say why");
  if (guard.interrupted()) {
    unlink(temporary.c_str());
    InterruptGuard::exit_interrupted();
  }
  if (std::rename(temporary.c_str(), output.c_str()) != 0) {
    give_up(fmt::format("cannot write {}: {}", output.string(), std::strerror(errno)));
  }
}

}  // namespace

int calibrate(const CalibrateOptions& options) {
  InterruptGuard guard("interrupted, no profile was written");
  std::signal(SIGXFSZ, SIG_IGN);  // a file size limit then is a failed write, reported as such
  const auto start = std::chrono::steady_clock::now();
  const fs::path output = output_path(options);
  check_model_file(options.model);
  check_output(output, options.model);
  const std::string text = read_text(options);
  const Recorder recorder = load_recorder();
  LlamaSession session(options.model, recorder.device);
  const std::size_t n_tokens = feed_text(session, text, options);
  if (const std::int64_t seen = recorder.tokens(); seen < kMinTokens) {
    throw Error(
        fmt::format("the plugin saw the keys of {} tokens of {}; {} has attention of a kind gtq does not know",
                    seen, n_tokens, printable(options.model)));
  }
  write_result(recorder, session, options, guard);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{}: profile of {} from {} tokens, {:.1f} s\n", output.string(), printable(session.model_name()),
             n_tokens, seconds.count());
  return kExitOk;
}

}  // namespace gtq::cli
