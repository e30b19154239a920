// Where things are: this program, the plugin, llama.cpp's programs and libraries.
#pragma once

#include <filesystem>
#include <string>

namespace gtq::cli {

std::filesystem::path executable_path();

// libggml-gtq.so beside the program (or in ../lib of an installed one). Throws Error when there is none.
std::filesystem::path plugin_path();

// Folder of llama.cpp's programs: ../llama.cpp/bin of this program's folder, else where it was built.
std::filesystem::path llama_bin_dir();

// Makes the folder that a verb writes to, its parents too. Throws Error.
void make_output_folder(const std::filesystem::path& folder);

// Whether a verb can write that file, found before minutes of work, not after. Throws Error.
void check_output_file(const std::filesystem::path& output);

// The file a shell would start for `program`; a name without a slash is looked up in llama_bin_dir() first.
// Throws Error when there is none.
std::filesystem::path find_program(const std::string& program);

// For people and terminals: control characters of untrusted text become '?'.
std::string printable(const std::string& text);

}  // namespace gtq::cli
