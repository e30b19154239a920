#include "stock_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>

#include "gtq/error.h"
#include "paths.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void exec_stock(const StockCommand& command, const fs::path& program) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int log = open(command.log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const int null = open("/dev/null", O_RDONLY);
  if (log < 0 || null < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0 ||
      dup2(null, STDIN_FILENO) < 0) {
    _exit(kExitError);
  }
  set_plugin_environment(command.environment);
  std::vector<std::string> arguments = command.arguments;
  std::vector<char*> argv = {const_cast<char*>(program.c_str())};
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  _exit(kExitError);
}

std::string read_all(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The plugin's own sentence, when it has said one: it names the remedy.
std::string last_gtq_line(const std::string& log) {
  const std::size_t at = log.rfind("\ngtq: ");
  if (at == std::string::npos) return "";
  return ": " + log.substr(at + 6, log.find('\n', at + 1) - at - 6);
}

}  // namespace

void set_plugin_environment(const std::vector<std::string>& variables) {
  for (const char* name : {"GGML_BACKEND_PATH", "GTQ_RECIPE", "GTQ_KV", "GTQ_PROFILE"}) unsetenv(name);
  for (const std::string& variable : variables) {
    const std::size_t equals = variable.find('=');
    setenv(variable.substr(0, equals).c_str(), variable.c_str() + equals + 1, 1);
  }
}

pid_t start(const StockCommand& command) {
  const fs::path program = find_program(command.program);
  const pid_t child = fork();
  if (child < 0) throw Error(fmt::format("cannot start {}: {}", program.string(), std::strerror(errno)));
  if (child == 0) exec_stock(command, program);
  return child;
}

std::string run_to_end(const StockCommand& command) {
  const pid_t child = start(command);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  std::string log = read_all(command.log);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return log;
  throw Error(fmt::format("{} failed{}; its log is {}", command.program, printable(last_gtq_line(log)),
                          command.log.string()));
}

double last_number(const std::string& log, const std::string& label) {
  const std::size_t at = log.rfind(label);
  if (at == std::string::npos) return std::numeric_limits<double>::quiet_NaN();
  return std::strtod(log.c_str() + at + label.size(), nullptr);
}

double sum_of_numbers(const std::string& log, const std::string& label) {
  double sum = 0;
  for (std::size_t at = log.find(label); at != std::string::npos; at = log.find(label, at + 1)) {
    sum += std::strtod(log.c_str() + at + label.size(), nullptr);
  }
  return sum;
}

}  // namespace gtq::cli
