// gtq eval kld: how far each KV cache moves the next token's distribution from that of the f16 cache, measured
// by llama.cpp's own llama-perplexity --kl-divergence.
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "eval_cache.h"
#include "gtq/error.h"
#include "interrupt.h"
#include "model_file.h"
#include "paths.h"
#include "profile_cache.h"
#include "stock_program.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

// The base logits, half a kilobyte per token and thousand words of the vocabulary, go when the verb ends, also
// when it is interrupted.
class BaseLogits {
 public:
  explicit BaseLogits(fs::path path) : path_(std::move(path)), guard_("interrupted", path_) {}
  ~BaseLogits() {
    std::error_code ec;
    fs::remove(path_, ec);
  }
  BaseLogits(const BaseLogits&) = delete;
  BaseLogits& operator=(const BaseLogits&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  InterruptGuard guard_;
};

struct KldRow {
  std::string name;
  double true_bits = 0, kv_mib = 0;
  double mean = 0, mean_error = 0, median = 0, p999 = 0, max = 0;
  double same_top = 0, ppl = 0, ppl_ratio = 0;
};

std::vector<std::string> perplexity_arguments(const EvalKldOptions& options, const fs::path& base) {
  std::vector<std::string> arguments = {"--model", options.model, "--flash-attn", "on", "--verbosity", "4"};
  const auto add = [&](const char* name, const std::string& value) {
    arguments.insert(arguments.end(), {name, value});
  };
  add("--ctx-size", std::to_string(options.n_ctx));
  add("--chunks", std::to_string(options.n_chunks));
  add("--kl-divergence-base", base.string());
  if (options.n_threads > 0) add("--threads", std::to_string(options.n_threads));
  return arguments;
}

KldRow read_row(const std::string& name, const std::string& log) {
  KldRow row;
  row.name = name;
  row.kv_mib = logged_kv_mib(log);
  row.mean = last_number(log, "Mean    KLD:");
  const std::size_t mean = log.rfind("Mean    KLD:");
  row.mean_error = mean == std::string::npos ? NAN : last_number(log.substr(mean, 60), "±");
  row.median = last_number(log, "Median  KLD:");
  row.p999 = last_number(log, "99.9%   KLD:");
  row.max = last_number(log, "Maximum KLD:");
  row.same_top = last_number(log, "Same top p:");
  row.ppl = last_number(log, "Mean PPL(Q)                   :");
  row.ppl_ratio = last_number(log, "Mean PPL(Q)/PPL(base)         :");
  if (std::isnan(row.mean))
    throw Error(fmt::format(
        "llama-perplexity printed no KL divergence for {}; it needs more chunks or a larger -c", name));
  return row;
}

KldRow measure(const EvalKldOptions& options, const EvalCache& cache, const fs::path& profile,
               const fs::path& base, double f16_mib) {
  StockCommand command;
  command.program = "llama-perplexity";
  command.arguments = perplexity_arguments(options, base);
  command.arguments.push_back("--kl-divergence");
  for (const std::string& argument : cache.arguments()) command.arguments.push_back(argument);
  command.environment = cache.environment(profile);
  command.log = fs::path(options.output) / (cache.name + ".log");
  KldRow row = read_row(cache.name, run_to_end(command));
  row.true_bits = true_bits(cache, row.kv_mib, f16_mib, profile);
  return row;
}

void print_head(double base_ppl, double f16_mib) {
  fmt::print(
      "| cache | true bits | KV, MiB | mean KLD | median | 99.9 % | max | same top, % | PPL | PPL ratio |\n"
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
      "| stock f16 (base) | 16 | {:.2f} | | | | | | {:.3f} | 1 |\n",
      f16_mib, base_ppl);
}

void print_row(const KldRow& r) {
  fmt::print(
      "| {} | {:.3f} | {:.2f} | {:.6f} ± {:.6f} | {:.6f} | {:.4f} | {:.4f} | {:.2f} | {:.3f} | {:.4f} |\n",
      r.name, r.true_bits, r.kv_mib, r.mean, r.mean_error, r.median, r.p999, r.max, r.same_top, r.ppl,
      r.ppl_ratio);
  std::fflush(stdout);  // a row may take minutes
}

void write_csv(const fs::path& path, const std::vector<KldRow>& rows) {
  std::ofstream out(path);
  out << "cache,true_bits,kv_mib,mean_kld,mean_kld_error,median_kld,p999_kld,max_kld,same_top_percent,ppl,"
         "ppl_ratio\n";
  for (const KldRow& r : rows) {
    out << fmt::format("{},{:.4f},{:.3f},{:.6f},{:.6f},{:.6f},{:.6f},{:.6f},{:.3f},{:.4f},{:.5f}\n", r.name,
                       r.true_bits, r.kv_mib, r.mean, r.mean_error, r.median, r.p999, r.max, r.same_top, r.ppl,
                       r.ppl_ratio);
  }
  out.close();
  if (!out) throw Error(fmt::format("cannot write {}; is the disk full?", path.string()));
}

}  // namespace

int eval_kld(const EvalKldOptions& options) {
  const std::vector<EvalCache> caches = parse_eval_caches(options.caches);
  check_model_file(options.model);
  if (!fs::exists(options.text)) throw Error(fmt::format("there is no text {}", printable(options.text)));
  make_output_folder(options.output);
  const fs::path profile = choose_profile(options.model, options.profile, options.calibrate, options.output);

  const BaseLogits base(fs::absolute(options.output) / "base.kld");
  StockCommand command;
  command.program = "llama-perplexity";
  command.arguments = perplexity_arguments(options, base.path());
  command.arguments.insert(command.arguments.end(), {"--file", options.text});
  command.log = fs::path(options.output) / "stock-f16.log";
  const std::string log = run_to_end(command);
  const double f16_mib = logged_kv_mib(log);
  const double base_ppl = last_number(log, "Final estimate: PPL =");
  if (std::isnan(base_ppl)) {  // llama-perplexity ends with success all the same
    throw Error(fmt::format("{} has not enough tokens for chunks of {}; use a longer text or a smaller -c",
                            printable(options.text), options.n_ctx));
  }
  print_head(base_ppl, f16_mib);

  std::vector<KldRow> rows;
  for (const EvalCache& cache : caches) {
    rows.push_back(measure(options, cache, profile, base.path(), f16_mib));
    print_row(rows.back());
    write_csv(fs::path(options.output) / "kld.csv", rows);
  }
  return kExitOk;
}

}  // namespace gtq::cli
