// gtq eval needle: exact retrieval of facts from long prompts, through a stock llama-server per cache.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "embedded.h"
#include "eval_cache.h"
#include "gtq/error.h"
#include "llama_server.h"
#include "model_file.h"
#include "needle_task.h"
#include "paths.h"
#include "profile_cache.h"
#include "text.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

constexpr int kAnswerTokens = 96;
constexpr int kRoomTokens = 1536;  // for facts, question, chat template and answer

std::vector<int> parse_lengths(const std::string& text) {
  std::vector<int> lengths;
  for (const std::string& item : split_list(text)) {
    const int n = std::atoi(item.c_str());
    if (n < 256)
      throw Error(fmt::format("\"{}\" is no length; use numbers of tokens from 256 on", printable(item)));
    lengths.push_back(n);
  }
  return lengths;
}

class NeedleEval {
 public:
  explicit NeedleEval(const EvalNeedleOptions& options)
      : options_(options),
        lengths_(parse_lengths(options.lengths)),
        csv_path_(fs::path(options.output) / "needle.csv") {
    haystack_ = options.text.empty() ? std::string(default_text())
                                     : read_text_file(options.text, std::size_t{64} << 20);
    if (haystack_.empty()) throw Error("the text is empty; use another one");
    for (const std::string& name : split_list(options.tasks)) kinds_.push_back(parse_needle_kind(name));
    csv_.open(csv_path_);
    csv_ << "cache,task,length,depth,score\n";
    if (!csv_.flush())
      throw Error(fmt::format("cannot write {}; choose another folder with -o", csv_path_.string()));
  }

  void run(const EvalCache& cache, const fs::path& profile) {
    std::vector<std::string> arguments = {"--model", options_.model, "--parallel", "1", "--flash-attn", "on"};
    const auto add = [&](const char* name, int value) {
      arguments.insert(arguments.end(), {name, std::to_string(value)});
    };
    add("--ctx-size", *std::max_element(lengths_.begin(), lengths_.end()) + kRoomTokens);
    if (options_.n_threads > 0) add("--threads", options_.n_threads);
    for (const std::string& argument : cache.arguments()) arguments.push_back(argument);
    LlamaServer server(arguments, cache.environment(profile),
                       fs::path(options_.output) / (cache.name + ".log"));
    const double chars_per_token =
        static_cast<double>(haystack_.size()) / static_cast<double>(server.count_tokens(haystack_));
    for (const NeedleKind kind : kinds_) {
      for (const int length : lengths_) measure(server, cache, kind, length, chars_per_token);
    }
    if (!csv_.flush()) throw Error(fmt::format("cannot write {}; is the disk full?", csv_path_.string()));
  }

 private:
  void measure(LlamaServer& server, const EvalCache& cache, NeedleKind kind, int length,
               double chars_per_token) {
    const std::string& name = needle_kind_names()[static_cast<std::size_t>(kind)];
    double sum = 0;
    for (int i = 0; i < options_.n_depths; ++i) {
      const double depth = options_.n_depths == 1 ? 0.5 : static_cast<double>(i) / (options_.n_depths - 1);
      const auto seed = static_cast<unsigned>(options_.seed + 1000 * i + length);
      const NeedleTask task =
          make_needle_task(kind, haystack_, static_cast<std::size_t>(length * chars_per_token), depth, seed);
      const double score = needle_score(task, server.chat(task.prompt, kAnswerTokens));
      csv_ << fmt::format("{},{},{},{:.3f},{:.3f}\n", cache.name, name, length, depth, score) << std::flush;
      sum += score;
    }
    fmt::print("| {} | {} | {} | {:.1f} |\n", cache.name, name, length, 100 * sum / options_.n_depths);
    std::fflush(stdout);
  }

  const EvalNeedleOptions& options_;
  std::vector<int> lengths_;
  std::vector<NeedleKind> kinds_;
  std::string haystack_;
  fs::path csv_path_;
  std::ofstream csv_;
};

}  // namespace

int eval_needle(const EvalNeedleOptions& options) {
  const std::vector<EvalCache> caches = parse_eval_caches(options.caches);
  check_model_file(options.model);
  make_output_folder(options.output);
  NeedleEval eval(options);
  const fs::path profile =
      fs::absolute(options.profile.empty() ? cached_profile(options.model) : fs::path(options.profile));
  fmt::print("| cache | task | tokens | retrieved, % |\n| --- | --- | --- | --- |\n");
  for (const EvalCache& cache : caches) eval.run(cache, profile);
  return kExitOk;
}

}  // namespace gtq::cli
