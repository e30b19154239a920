// Start of a program for Google Benchmark.
#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

namespace gtq::bench {

// `defaults` stand before the user's arguments, which win. False when there is one that nobody knows.
inline bool initialize(int argc, char** argv, std::vector<std::string> defaults) {
  std::vector<char*> arguments = {argv[0]};
  for (std::string& argument : defaults) arguments.push_back(argument.data());
  arguments.insert(arguments.end(), argv + 1, argv + argc);
  int n_arguments = static_cast<int>(arguments.size());
  benchmark::Initialize(&n_arguments, arguments.data());
  return !benchmark::ReportUnrecognizedArguments(n_arguments, arguments.data());
}

}  // namespace gtq::bench
