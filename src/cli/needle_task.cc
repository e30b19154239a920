#include "needle_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <random>

#include "gtq/error.h"
#include "paths.h"

namespace gtq::cli {
namespace {

constexpr std::array<const char*, 40> kWords = {
    "amber",   "basalt",  "cedar",   "dune",   "ember",  "falcon", "garnet",  "harbor", "indigo",  "juniper",
    "kestrel", "lagoon",  "marble",  "nectar", "onyx",   "pebble", "quartz",  "raven",  "saffron", "thistle",
    "umber",   "velvet",  "willow",  "yarrow", "zephyr", "acorn",  "bramble", "cobalt", "drizzle", "elm",
    "fern",    "glacier", "heather", "iris",   "jasper", "kelp",   "lichen",  "meadow", "nutmeg",  "orchid"};
constexpr std::array<const char*, 5> kOtherNumbers = {"ordinary", "old", "spare", "printed", "wrong"};

struct Fact {
  std::string sentence;
  double depth;
};

class Builder {
 public:
  explicit Builder(unsigned seed) : random_(seed), words_(kWords.begin(), kWords.end()) {
    std::shuffle(words_.begin(), words_.end(), random_);
  }

  const std::string& word(std::size_t i) const { return words_[i]; }
  double anywhere() { return std::uniform_real_distribution<double>(0, 1)(random_); }

  std::string add(const std::string& kind, const std::string& word, double depth) {
    const std::string number = std::to_string(std::uniform_int_distribution<int>(1000000, 9999999)(random_));
    facts_.push_back({fmt::format(" The {} number for {} is: {}.", kind, word, number), depth});
    return number;
  }

  // Facts go behind the end of the sentence nearest in front of their depth.
  std::string text(std::string_view haystack, std::size_t n_chars) {
    std::string filler;
    while (filler.size() < n_chars) filler.append(haystack).append("\n\n");
    std::size_t end = n_chars;
    while (end > 0 && (static_cast<unsigned char>(filler[end]) & 0xc0) == 0x80) --end;  // whole characters
    filler.resize(end);
    std::stable_sort(facts_.begin(), facts_.end(),
                     [](const Fact& a, const Fact& b) { return a.depth < b.depth; });
    std::string out;
    std::size_t from = 0;
    for (const Fact& fact : facts_) {
      const std::size_t wanted = static_cast<std::size_t>(fact.depth * static_cast<double>(filler.size()));
      const std::size_t stop = filler.rfind(". ", wanted);
      const std::size_t at = stop == std::string::npos || stop + 1 < from ? from : stop + 1;
      out.append(filler, from, at - from).append(fact.sentence);
      from = at;
    }
    return out.append(filler, from);
  }

 private:
  std::mt19937 random_;
  std::vector<std::string> words_;
  std::vector<Fact> facts_;
};

const std::string kMagic = "special magic";

std::string question(const std::string& about, bool plural) {
  return fmt::format(
      "What {} the special magic number{} {}mentioned in the text above? Answer with the number{} only.",
      plural ? "are all" : "is", plural ? "s" : "", about.empty() ? "" : "for " + about + " ",
      plural ? "s" : "");
}

}  // namespace

const std::vector<std::string>& needle_kind_names() {
  static const std::vector<std::string> names = {"single",   "distractor", "multi",
                                                 "multikey", "multivalue", "multiquery"};
  return names;
}

NeedleKind parse_needle_kind(const std::string& name) {
  const auto& names = needle_kind_names();
  const auto found = std::find(names.begin(), names.end(), name);
  if (found == names.end()) {
    throw Error(fmt::format("\"{}\" is no needle task; use {}", printable(name), fmt::join(names, ", ")));
  }
  return static_cast<NeedleKind>(found - names.begin());
}

NeedleTask make_needle_task(NeedleKind kind, std::string_view haystack, std::size_t n_chars, double depth,
                            unsigned seed) {
  Builder b(seed);
  NeedleTask task;
  std::string ask;
  switch (kind) {
    case NeedleKind::kSingle:
    case NeedleKind::kDistractor:
    case NeedleKind::kMultikey:
      task.answers = {b.add(kMagic, b.word(0), depth)};
      for (const char* other : kOtherNumbers) {
        if (kind == NeedleKind::kDistractor) b.add(other, b.word(0), b.anywhere());
      }
      for (std::size_t i = 1; kind == NeedleKind::kMultikey && i <= 30; ++i)
        b.add(kMagic, b.word(i), b.anywhere());
      ask = question(b.word(0), false);
      break;
    case NeedleKind::kMulti:
      for (std::size_t i = 0; i < 3; ++i) {
        task.answers.push_back(b.add(kMagic, b.word(i), i == 0 ? depth : b.anywhere()));
      }
      ask = question("", true);
      break;
    case NeedleKind::kMultivalue:
      for (std::size_t i = 0; i < 4; ++i) {
        task.answers.push_back(b.add(kMagic, b.word(0), i == 0 ? depth : b.anywhere()));
      }
      ask = question(b.word(0), true);
      break;
    case NeedleKind::kMultiquery:
      for (std::size_t i = 0; i < 4; ++i) {
        task.answers.push_back(b.add(kMagic, b.word(i), i == 0 ? depth : b.anywhere()));
      }
      ask = question(fmt::format("{}, {}, {} and {}", b.word(0), b.word(1), b.word(2), b.word(3)), true);
      break;
  }
  task.prompt = b.text(haystack, n_chars) + "\n\n" + ask;
  return task;
}

double needle_score(const NeedleTask& task, std::string_view text) {
  int found = 0;
  for (const std::string& answer : task.answers) found += text.find(answer) != std::string_view::npos ? 1 : 0;
  return static_cast<double>(found) / static_cast<double>(task.answers.size());
}

}  // namespace gtq::cli
