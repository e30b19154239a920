// Whole files in and out, for profiles. Functions throw Error with a sentence that names the path.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace gtq {

// The bytes of a regular file. Its first bytes are looked at before the rest is read, so that a model of many
// gigabytes given by mistake is refused at once; the checksum is verified too.
std::vector<std::uint8_t> read_profile_bytes(const std::string& path);

// All of `bytes` at `path`, or nothing: a temporary file in the same directory that is renamed when it is
// safely on disk and removed on any failure.
void replace_file(const std::string& path, const std::vector<std::uint8_t>& bytes);

}  // namespace gtq
