// Names and fixed offsets of a profile file; docs/format.md, "Profile", is the normative text.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace gtq::profile_format {

static_assert(std::endian::native == std::endian::little,
              "a profile file is little-endian and copied as it is");

inline constexpr std::uint32_t kVersion = 1;

inline constexpr std::string_view kMagic = "GGUF";
inline constexpr std::string_view kChecksumKey = "gtq.checksum";
// GGUF's fixed header is 24 bytes, then the first key: its length (u64), its bytes, the kind of its value
// (i32).
inline constexpr std::size_t kChecksumKeyOffset = 24 + 8;
inline constexpr std::size_t kChecksumOffset = kChecksumKeyOffset + kChecksumKey.size() + 4;
inline constexpr std::size_t kHeadBytes = kChecksumOffset + sizeof(std::uint64_t);
static_assert(kChecksumOffset == 48);

inline constexpr const char* kArchitectureKey = "general.architecture";
inline constexpr const char* kArchitecture = "gtq-profile";
inline constexpr const char* kTypeKey = "general.type";
inline constexpr const char* kType = "profile";
inline constexpr const char* kVersionKey = "gtq.format_version";
inline constexpr const char* kModelNameKey = "gtq.model_name";
inline constexpr const char* kFingerprintKey = "gtq.fingerprint";
inline constexpr const char* kTokensKey = "gtq.n_tokens";
inline constexpr const char* kTextSourceKey = "gtq.text_source";
inline constexpr const char* kLayersKey = "gtq.layers";

// FNV-1a, 64 bits, over the file with the 8 bytes of the checksum itself taken as zero. Any change of one byte
// changes it, since every step is a bijection of the state.
inline std::uint64_t checksum(const std::uint8_t* file, std::size_t size) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < size; ++i) {
    const bool own = i >= kChecksumOffset && i < kChecksumOffset + sizeof(std::uint64_t);
    hash = (hash ^ (own ? 0u : file[i])) * 0x100000001b3u;
  }
  return hash;
}

}  // namespace gtq::profile_format
