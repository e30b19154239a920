// The six retrieval tasks known as "needle in a haystack" (names as in RULER, Hsieh et al. 2024), made offline
// from a seed: facts of the form "The special magic number for <word> is: <7 digits>." between sentences of a
// text, and a question whose answers are numbers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace gtq::cli {

enum class NeedleKind {
  kSingle,      // one fact
  kDistractor,  // one fact, and five of the same word that are not about the magic number
  kMulti,       // three facts; all numbers of the text are asked for, no word is named
  kMultikey,    // one fact among thirty of other words
  kMultivalue,  // four numbers for one word; all are asked for
  kMultiquery,  // four words with a number each; all are asked for
};

struct NeedleTask {
  std::string prompt;
  std::vector<std::string> answers;
};

const std::vector<std::string>& needle_kind_names();    // "single", ... in the order of NeedleKind
NeedleKind parse_needle_kind(const std::string& name);  // throws Error

// n_chars of haystack around the facts; `depth` in [0, 1] is where the (first) fact stands, 0 the beginning.
// Same arguments, same task.
NeedleTask make_needle_task(NeedleKind kind, std::string_view haystack, std::size_t n_chars, double depth,
                            unsigned seed);

// Share of the answers that the text contains.
double needle_score(const NeedleTask& task, std::string_view text);

}  // namespace gtq::cli
