#include "interrupt.h"

#include <unistd.h>

#include <csignal>
#include <string>
#include <string_view>

#include "verbs.h"

namespace gtq::cli {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM, SIGHUP};

const char* g_sentence = "";
std::string g_scratch;
volatile std::sig_atomic_t g_deferred = 0;
volatile std::sig_atomic_t g_interrupted = 0;

extern "C" void gtq_cli_on_signal(int) {
  g_interrupted = 1;
  if (!g_deferred) InterruptGuard::exit_interrupted();
}

void say(std::string_view text) { (void)!write(STDERR_FILENO, text.data(), text.size()); }

void handle_signals(void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  sigemptyset(&action.sa_mask);
  for (int signal : kSignals) sigaddset(&action.sa_mask, signal);
  for (int signal : kSignals) {
    struct sigaction old = {};
    sigaction(signal, nullptr, &old);
    if (old.sa_handler != SIG_IGN) sigaction(signal, &action, nullptr);  // nohup stays nohup
  }
}

}  // namespace

InterruptGuard::InterruptGuard(const char* sentence, const std::filesystem::path& scratch) {
  g_sentence = sentence;
  g_scratch = scratch.string();
  handle_signals(gtq_cli_on_signal);
}
InterruptGuard::~InterruptGuard() { handle_signals(SIG_DFL); }

void InterruptGuard::defer() { g_deferred = 1; }
bool InterruptGuard::interrupted() const { return g_interrupted != 0; }

// Called from signal handlers: unlink, write and _exit only. The progress bar leaves the cursor in its line.
void InterruptGuard::exit_interrupted() {
  if (!g_scratch.empty()) unlink(g_scratch.c_str());
  constexpr std::string_view kClearLine = "\r\x1b[K";
  if (isatty(STDERR_FILENO)) say(kClearLine);
  say("gtq: ");
  say(g_sentence);
  say("\n");
  _exit(kExitInterrupted);
}

}  // namespace gtq::cli
