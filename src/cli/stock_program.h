// Runs an unmodified llama.cpp program to its end and keeps what it says.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>
#include <vector>

namespace gtq::cli {

struct StockCommand {
  std::string program;  // name or path, see find_program()
  std::vector<std::string> arguments;
  std::vector<std::string> environment;  // "NAME=value"; the plugin's own variables are unset before
  std::filesystem::path log;             // takes standard output and standard error
};

// Unsets what an outer gtq or the user may have set for the plugin, then sets `variables` ("NAME=value").
void set_plugin_environment(const std::vector<std::string>& variables);

// Starts the program, which ends with this process at the latest. Throws Error when there is none.
pid_t start(const StockCommand& command);
// Returns the log's text. Throws Error, which names the log, when the program fails or cannot start. The
// program ends with this process.
std::string run_to_end(const StockCommand& command);

// The number behind the last `label` in a log, or NaN.
double last_number(const std::string& log, const std::string& label);
// The sum of the numbers behind all of them: a model with sliding windows has two caches.
double sum_of_numbers(const std::string& log, const std::string& label);

}  // namespace gtq::cli
