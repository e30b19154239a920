#include "cpu/page_layout.h"

#include <array>
#include <cstring>

#include "codec/bits.h"
#include "gtq/allocation.h"
#include "gtq/attention.h"

namespace gtq::cpu {
namespace {

// Some bits of an output: bits [code_shift, code_shift + n_bits) of the code stand at bit `shift` of `word`.
struct Part {
  std::uint8_t word, shift, code_shift, n_bits;
};

struct Output {
  std::array<Part, 3> parts;
  int n_parts;
};

constexpr Output one_part(int word, int shift, int width) {
  return {{{{static_cast<std::uint8_t>(word), static_cast<std::uint8_t>(shift), 0,
             static_cast<std::uint8_t>(width)}}},
          1};
}

constexpr Output output_of(int width, int o) {
  const auto u8 = [](int x) { return static_cast<std::uint8_t>(x); };
  switch (width) {
    case 3:
      if (o < 6) return one_part(o / 2, 3 * (o % 2), 3);
      return {{{{u8(o - 6), 6, 0, 2}, {2, u8(o), 2, 1}}}, 2};
    case 5:
      if (o < 5) return one_part(o, 0, 5);
      if (o < 7) return {{{{u8(o - 5), 5, 0, 3}, {u8(o - 2), 5, 3, 2}}}, 2};
      return {{{{2, 5, 0, 3}, {3, 7, 3, 1}, {4, 7, 4, 1}}}, 3};
    case 6:
      if (o < 6) return one_part(o, 0, 6);
      return {{{{u8(3 * (o - 6)), 6, 0, 2}, {u8(3 * (o - 6) + 1), 6, 2, 2}, {u8(3 * (o - 6) + 2), 6, 4, 2}}},
              3};
    default: {  // 1, 2, 4: whole codes side by side
      const int per_byte = 8 / width;
      return one_part(o / per_byte, width * (o % per_byte), width);
    }
  }
}

constexpr auto make_outputs() {
  std::array<std::array<Output, kUnitOutputs>, kMaxWidth + 1> all{};
  for (int width = kMinWidth; width <= kMaxWidth; ++width) {
    for (int o = 0; o < kUnitOutputs; ++o) all[width][o] = output_of(width, o);
  }
  return all;
}

constexpr auto kOutputs = make_outputs();

// Replaces the bits of a part in 32-bit lanes: four neighbouring codes, or one code in the byte at bit `at` of
// each lane when bytes is 1.
inline std::uint32_t with_codes(std::uint32_t lane, const Part& part, std::uint32_t codes, std::uint32_t bytes,
                                int at) {
  const std::uint32_t mask = ((1u << part.n_bits) - 1) * bytes;
  const std::uint32_t bits = codes >> part.code_shift & mask;
  return (lane & ~(mask << part.shift << at)) | bits << part.shift << at;
}

template <class Word>
inline std::uint64_t load_word(const std::uint8_t* p) {
  Word word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

// The 16 codes of a quant_group, 2 * kWidth bytes, as the bytes of two numbers.
struct Sixteen {
  std::uint64_t first, second;
};
template <int kWidth>
inline Sixteen unpack_sixteen(const std::uint8_t* row) {
  constexpr int kBits = 8 * kWidth;
  constexpr std::uint64_t kMask = (std::uint64_t{1} << kBits) - 1;
  std::uint64_t low = 0, high = 0;
  if constexpr (kWidth == 1) {
    low = load_word<std::uint16_t>(row);
  } else if constexpr (kWidth == 2) {
    low = load_word<std::uint32_t>(row);
  } else if constexpr (kWidth == 3) {
    low = load_word<std::uint32_t>(row) | load_word<std::uint16_t>(row + 4) << 32;
  } else {
    low = load_word<std::uint64_t>(row);
    if constexpr (kWidth == 5) high = load_word<std::uint16_t>(row + 8) << (64 - kBits);
    if constexpr (kWidth == 6) high = load_word<std::uint32_t>(row + 8) << (64 - kBits);
  }
  return {part_eight(low & kMask, kWidth), part_eight(low >> kBits | high, kWidth)};
}

// Four neighbouring codes into a lane of a key unit; `words` are those of the lane.
template <int kWidth, int kOutput, int kPart = 0>
inline void put_four_codes(std::uint32_t* words, std::uint32_t codes) {
  constexpr Output output = kOutputs[kWidth][kOutput];
  if constexpr (kPart < output.n_parts) {
    constexpr Part part = output.parts[kPart];
    words[part.word] = with_codes(words[part.word], part, codes, 0x01010101u, 0);
    put_four_codes<kWidth, kOutput, kPart + 1>(words, codes);
  }
}

// The 16 codes of a key and quant_group, a part of a row, into their lane of four outputs of a key unit; `lane`
// points at it in word 0. Every word is read and written once.
template <int kWidth, int kOutput>
void put_key_codes(std::uint8_t* lane, const std::uint8_t* row) {
  const auto [first, second] = unpack_sixteen<kWidth>(row);
  std::uint32_t words[kWidth];
  for (int w = 0; w < kWidth; ++w) std::memcpy(&words[w], lane + w * kWordBytes, 4);
  put_four_codes<kWidth, kOutput>(words, static_cast<std::uint32_t>(first));
  put_four_codes<kWidth, kOutput + 1>(words, static_cast<std::uint32_t>(first >> 32));
  put_four_codes<kWidth, kOutput + 2>(words, static_cast<std::uint32_t>(second));
  put_four_codes<kWidth, kOutput + 3>(words, static_cast<std::uint32_t>(second >> 32));
  for (int w = 0; w < kWidth; ++w) std::memcpy(lane + w * kWordBytes, &words[w], 4);
}

// 16 codes of a value into byte `byte` of each of the 16 lanes of a value unit.
template <int kWidth>
void put_value_codes(std::uint8_t* unit, const Output& output, int byte, const std::uint8_t* row) {
  // Written at once: loads wider than the stores before them would wait.
  using Eights = std::uint64_t __attribute__((vector_size(kGroupDims)));
  const auto [first, second] = unpack_sixteen<kWidth>(row);
  const Eights eights = {first, second};
  std::uint8_t codes[kGroupDims];
  std::memcpy(codes, &eights, sizeof codes);
  std::uint32_t lanes[kGroupDims];
  for (int i = 0; i < output.n_parts; ++i) {
    std::uint8_t* word = unit + output.parts[i].word * kWordBytes;
    std::memcpy(lanes, word, sizeof(lanes));
    for (int d = 0; d < kGroupDims; ++d)
      lanes[d] = with_codes(lanes[d], output.parts[i], codes[d], 1, 8 * byte);
    std::memcpy(word, lanes, sizeof(lanes));
  }
}

using PutKeyCodes = void (*)(std::uint8_t*, const std::uint8_t*);
template <int kOutput>
constexpr PutKeyCodes kPutKeyCodes[] = {nullptr,
                                        put_key_codes<1, kOutput>,
                                        put_key_codes<2, kOutput>,
                                        put_key_codes<3, kOutput>,
                                        put_key_codes<4, kOutput>,
                                        put_key_codes<5, kOutput>,
                                        put_key_codes<6, kOutput>};

using PutValueCodes = void (*)(std::uint8_t*, const Output&, int, const std::uint8_t*);
constexpr PutValueCodes kPutValueCodes[] = {nullptr,
                                            put_value_codes<1>,
                                            put_value_codes<2>,
                                            put_value_codes<3>,
                                            put_value_codes<4>,
                                            put_value_codes<5>,
                                            put_value_codes<6>};

std::uint8_t get_code(const std::uint8_t* unit, const Output& output) {
  unsigned code = 0;
  for (int i = 0; i < output.n_parts; ++i) {
    const Part& part = output.parts[i];
    const unsigned mask = (1u << part.n_bits) - 1;
    code |= ((unit[part.word * kWordBytes] >> part.shift) & mask) << part.code_shift;
  }
  return static_cast<std::uint8_t>(code);
}

}  // namespace

KeyPageLayout::KeyPageLayout(const std::vector<std::uint8_t>& group_widths) : widths(group_widths) {
  for (const std::uint8_t width : widths) {
    group_offset.push_back(static_cast<std::uint32_t>(half_bytes));
    half_bytes += width * kWordBytes;
  }
  norm_offset = 2 * half_bytes;
  page_bytes = norm_offset + kPageTokens;
  row_bytes = page_bytes / kPageTokens;
}

void KeyPageLayout::store(std::uint8_t* page, int cell, const std::uint8_t* row) const {
  page[norm_offset + cell] = *row++;
  const PutKeyCodes* put = cell / 16 % 2 == 0 ? kPutKeyCodes<0> : kPutKeyCodes<4>;
  for (std::size_t g = 0; g < widths.size(); ++g) {
    put[widths[g]](page + (cell / 32) * half_bytes + group_offset[g] + 4 * (cell % 16), row);
    row += 2 * widths[g];
  }
}

void KeyPageLayout::load(const std::uint8_t* page, int cell, std::uint8_t* row) const {
  *row++ = page[norm_offset + cell];
  const int first_output = 4 * ((cell / 16) % 2);
  std::uint8_t codes[kGroupDims];
  for (std::size_t g = 0; g < widths.size(); ++g) {
    const std::uint8_t* unit = page + (cell / 32) * half_bytes + group_offset[g] + 4 * (cell % 16);
    for (int slot = 0; slot < kGroupDims; ++slot) {
      codes[slot] = get_code(unit + slot % 4, kOutputs[widths[g]][first_output + slot / 4]);
    }
    pack_codes(codes, kGroupDims, widths[g], row);
    row += 2 * widths[g];
  }
}

ValuePageLayout::ValuePageLayout(int head_dim, int code_width)
    : n_groups(head_dim / kGroupDims),
      width(code_width),
      norm_offset(static_cast<std::size_t>(n_groups) * 2 * code_width * kWordBytes),
      page_bytes(norm_offset + kPageTokens),
      row_bytes(page_bytes / kPageTokens) {}

void ValuePageLayout::store(std::uint8_t* page, int cell, const std::uint8_t* row) const {
  page[norm_offset + cell] = *row++;
  const Output& output = kOutputs[width][(cell / 4) % kUnitOutputs];
  for (int g = 0; g < n_groups; ++g) {
    std::uint8_t* unit = page + static_cast<std::size_t>(2 * g + cell / 32) * width * kWordBytes;
    kPutValueCodes[width](unit, output, cell % 4, row);
    row += 2 * width;
  }
}

void ValuePageLayout::load(const std::uint8_t* page, int cell, std::uint8_t* row) const {
  *row++ = page[norm_offset + cell];
  const Output& output = kOutputs[width][(cell / 4) % kUnitOutputs];
  std::uint8_t codes[kGroupDims];
  for (int g = 0; g < n_groups; ++g) {
    const std::uint8_t* unit =
        page + static_cast<std::size_t>(2 * g + cell / 32) * width * kWordBytes + cell % 4;
    for (int dim = 0; dim < kGroupDims; ++dim) codes[dim] = get_code(unit + 4 * dim, output);
    pack_codes(codes, kGroupDims, width, row);
    row += 2 * width;
  }
}

}  // namespace gtq::cpu
