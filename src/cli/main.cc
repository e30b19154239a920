// Command line of gtq: arguments in, one verb called, exceptions turned into one line and an exit code.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "gtq/allocation.h"
#include "gtq/error.h"
#include "paths.h"
#include "verbs.h"

namespace gtq::cli {
namespace {

const std::string kBudgetHelp = "bits per key and per value, k<1..6>v<1..6>, fractions allowed (k3.5v3.25)";

const std::string kCacheBudgetHelp =
    kBudgetHelp + ", and with the first 64 and last 128 tokens in k6v6: k3v3r128";

// A wrong budget is a usage error, found before any file is opened.
template <auto parse>
std::string check_with(const std::string& text) {
  try {
    parse(text);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}
constexpr auto check_budget = check_with<parse_budget>;
constexpr auto check_cache_budget = check_with<parse_cache_budget>;

void add_calibrate(CLI::App& app, CalibrateOptions& options, std::function<int()>& verb) {
  CLI::App* sub = app.add_subcommand("calibrate", "run a model over a text and write its profile");
  sub->add_option("-m,--model", options.model, "model, a GGUF file")->required();
  sub->add_option("-f,--file", options.text, "text to calibrate on, UTF-8 (default: one inside gtq)");
  sub->add_option("-o,--output", options.output, "profile to write (default: beside the model, .gtq.gguf)");
  sub->add_option("-t,--threads", options.n_threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  sub->add_option("-n,--tokens", options.n_tokens, "tokens to use at most")
      ->check(CLI::Range(kMinTokens, 1 << 20))
      ->capture_default_str();
  sub->add_option("-c,--chunk", options.chunk_tokens, "tokens per sequence")
      ->check(CLI::Range(16, 1 << 16))
      ->capture_default_str();
  sub->footer("Example:\n  gtq calibrate -m model.gguf -f my-text.txt -o model.gtq.gguf");
  sub->callback([&] { verb = [&] { return calibrate(options); }; });
}

void add_inspect(CLI::App& app, InspectOptions& options, std::function<int()>& verb) {
  CLI::App* sub = app.add_subcommand("inspect", "show what a profile holds and how a budget is spent");
  sub->add_option("profile", options.profile, "profile made by gtq calibrate")->required();
  sub->add_option("--kv", options.kv, kBudgetHelp)->check(check_budget)->capture_default_str();
  CLI::Option* json = sub->add_flag("--json", options.json, "print JSON");
  sub->add_flag("--html", options.html, "print a page with heat maps, for a browser")->excludes(json);
  sub->footer("Example:\n  gtq inspect model.gtq.gguf --kv k3v3");
  sub->callback([&] { verb = [&] { return inspect(options); }; });
}

CLI::App* add_run(CLI::App& app, RunOptions& options, std::function<int()>& verb) {
  CLI::App* sub = app.add_subcommand(
      "run", "start a llama.cpp program with its KV cache packed: gtq run [OPTIONS] -- PROGRAM ARGUMENTS...");
  sub->add_option("--kv", options.kv, kCacheBudgetHelp)->check(check_cache_budget)->capture_default_str();
  sub->add_option("--profile", options.profile,
                  "profile (default: made on first use, kept in the user's cache)");
  sub->add_option("--recipe", options.recipe, "gtq, block-gtq, tq-mse (simulated) or f16")
      ->check(CLI::IsMember({"gtq", "block-gtq", "tq-mse", "f16"}))
      ->capture_default_str();
  sub->prefix_command();
  sub->footer("Example:\n  gtq run --kv k3v3 -- llama-server -m model.gguf -c 32768");
  sub->callback([&] { verb = [&] { return run(options); }; });
  return sub;
}

// A verb of `gtq eval` with the arguments that all of them have.
template <class Options>
CLI::App* add_eval(CLI::App& app, const char* name, const char* help, Options& options,
                   int (*eval)(const Options&), std::function<int()>& verb) {
  CLI::App* sub = app.add_subcommand(name, help);
  sub->add_option("-m,--model", options.model, "model, a GGUF file")->required();
  sub->add_option("-f,--file", options.text, "text to measure on")->required();
  sub->add_option("--profile", options.profile,
                  "profile to use as it is (default: made on first use, kept in the user's cache)");
  sub->add_option("-t,--threads", options.n_threads, "threads (default: one per core)")
      ->check(CLI::Range(1, 1024));
  sub->callback([&options, eval, &verb] { verb = [&options, eval] { return eval(options); }; });
  return sub;
}

template <class Options>
void add_calibrate_text(CLI::App* sub, Options& options) {
  sub->add_option("--calibrate", options.calibrate, "text to make the profile from (default: one inside gtq)")
      ->excludes(sub->get_option("--profile"));
}

void add_eval_kld(CLI::App& app, EvalKldOptions& options, std::function<int()>& verb) {
  CLI::App* sub = add_eval(
      app, "kld", "KL divergence of each cache from f16, by llama-perplexity: a table, logs and a CSV file",
      options, eval_kld, verb);
  add_calibrate_text(sub, options);
  sub->add_option(
         "--caches", options.caches,
         "comma separated: f16 (through the plugin); q8_0 and other stock types; k3v3 and other budgets; "
         "block-gtq-k3v3, tq-mse-k3v3 (simulated)")
      ->capture_default_str();
  sub->add_option("-o,--output", options.output, "folder for logs and kld.csv")->capture_default_str();
  sub->add_option("-c,--ctx-size", options.n_ctx, "tokens of a chunk")
      ->check(CLI::Range(16, 1 << 20))
      ->capture_default_str();
  sub->add_option("--chunks", options.n_chunks, "chunks of the text")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->footer("Example:\n  gtq eval kld -m model.gguf -f text.txt --caches q4_0,k4v4,k3v3");
}

void add_eval_logits(CLI::App& app, EvalLogitsOptions& options, std::function<int()>& verb) {
  CLI::App* sub = add_eval(app, "logits",
                           "attention of each layer with coded keys and values: error of logits, weights and "
                           "outputs for gtq and the paper's recipes at 2, 3 and 4 bits, tables and a CSV file",
                           options, eval_logits, verb);
  add_calibrate_text(sub, options);
  sub->add_option("-o,--output", options.output, "folder for logits.csv")->capture_default_str();
  sub->add_option("-n,--tokens", options.n_tokens, "tokens of the text, from its beginning, as one sequence")
      ->check(CLI::Range(kMinTokens, 1 << 16))
      ->capture_default_str();
  sub->footer("Example:\n  gtq eval logits -m model.gguf -f test.txt --calibrate train.txt");
}

void add_eval_decode(CLI::App& app, EvalDecodeOptions& options, std::function<int()>& verb) {
  CLI::App* sub = add_eval(
      app, "decode", "logits of each cache against f16 when it is filled token by token, as in generation",
      options, eval_decode, verb);
  sub->get_option("--file")->description("text whose beginning is the prompt");
  sub->add_option("--caches", options.caches, "as for gtq eval kld")->capture_default_str();
  sub->add_option("-p,--prompt", options.n_prompt, "tokens of the prompt")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  sub->add_option("-n,--predict", options.n_decode, "tokens to generate")
      ->check(CLI::Range(2, 1 << 16))
      ->capture_default_str();
  sub->footer("Example:\n  gtq eval decode -m model.gguf -f text.txt --caches f16,k3v3");
}

void add_eval_needle(CLI::App& app, EvalNeedleOptions& options, std::function<int()>& verb) {
  CLI::App* sub = add_eval(app, "needle", "retrieval of facts from long prompts, through llama-server", options,
                           eval_needle, verb);
  sub->get_option("--model")->description("instruction model, a GGUF file");
  sub->get_option("--file")
      ->description("text to hide facts in (default: one inside gtq, repeated)")
      ->required(false);
  sub->add_option("--caches", options.caches, "as for gtq eval kld")->capture_default_str();
  sub->add_option("--tasks", options.tasks, "comma separated")->capture_default_str();
  sub->add_option("--lengths", options.lengths, "tokens of text, comma separated")->capture_default_str();
  sub->add_option("--depths", options.n_depths, "places of the fact, from beginning to end")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  sub->add_option("--seed", options.seed, "of words, numbers and places")->capture_default_str();
  sub->add_option("-o,--output", options.output, "folder for logs and needle.csv")->capture_default_str();
  sub->footer("Example:\n  gtq eval needle -m model.gguf --caches f16,k3v3 --lengths 4096,8192");
}

// head_dim: the codec takes multiples of 16, ggml's q8_0 and q4_0 of 32.
std::string check_head_dim(const std::string& text) {
  const int n = std::atoi(text.c_str());
  return n >= 32 && n <= 512 && n % 32 == 0 ? "" : text + " is no multiple of 32 up to 512";
}

void add_bench_attention(CLI::App& app, BenchAttentionOptions& options, std::function<int()>& verb) {
  CLI::App* sub = app.add_subcommand("attention",
                                     "attention of gtq and of llama.cpp's CPU backend in turn, on one KV head, "
                                     "and what bounds it: a table per shape");
  const auto add_list = [sub](const char* name, auto& list, const char* help) {
    return sub->add_option(name, list, help)->delimiter(',')->capture_default_str();
  };
  add_list("--head-dims", options.head_dims, "multiples of 32, comma separated as all lists")
      ->check(check_head_dim);
  add_list("--groups", options.groups, "query heads per KV head")->check(CLI::Range(1, 64));
  add_list("--lengths", options.lengths, "cells of the cache")->check(CLI::Range(1, 1 << 22));
  add_list("--rows", options.rows, "query rows: 1 is decode, 512 is prefill")->check(CLI::Range(1, 1 << 13));
  add_list("--kv", options.budgets, kBudgetHelp.c_str())->check(check_budget);
  add_list("--means", options.means, "0: no mean keys; 1: on all pairs of dims")->check(CLI::Range(0, 1));
  add_list("--kernels", options.kernels, "of gtq (default: the fastest of this machine)");
  sub->add_option("--peer", options.peer,
                  "folder of llama.cpp's libggml-cpu*.so (default: the one gtq uses), or none");
  sub->add_option("-t,--threads", options.n_threads, "threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  sub->add_option("--rounds", options.n_rounds, "how often each case is timed")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  sub->add_option("--spread", options.spread_mib,
                  "MiB of caches to walk through, so that none stays in the CPU's")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  sub->add_option("-o,--output", options.output, "JSON file to write");
  sub->footer("Example:\n  gtq bench attention --head-dims 128 --groups 4 --lengths 4096 -o attention.json");
  sub->callback([&] { verb = [&] { return bench_attention(options); }; });
}

int fail(int code, const std::string& message) {
  std::string line = message;
  std::replace(line.begin(), line.end(), '\n', ' ');
  fmt::print(stderr, "gtq: {}\n", printable(line));
  return code;
}

int call_verb(const std::function<int()>& verb) {
  try {
    const int code = verb();
    if (std::fflush(stdout) != 0) return fail(kExitError, "cannot write to standard output; is the disk full?");
    return code;
  } catch (const std::bad_alloc&) {
    return fail(kExitError, "out of memory; close other programs or use a smaller model");
  } catch (const std::exception& error) {
    return fail(kExitError, error.what());
  }
}

int parse_and_call(std::vector<std::string> arguments) {
  CLI::App app("gtq packs the KV cache of llama.cpp into 1 to 6 bits per value.");
  app.name("gtq");
  app.set_version_flag("--version", std::string("gtq ") + GTQ_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  gtq run -- llama-server -m model.gguf         serve with a packed cache, no other preparation\n"
      "  gtq calibrate -m model.gguf -o my.gtq.gguf    make the profile by hand\n"
      "  gtq inspect my.gtq.gguf --kv k3v3             look at it");
  CalibrateOptions calibrate_options;
  InspectOptions inspect_options;
  RunOptions run_options;
  EvalKldOptions eval_kld_options;
  EvalLogitsOptions eval_logits_options;
  EvalDecodeOptions eval_decode_options;
  EvalNeedleOptions eval_needle_options;
  BenchAttentionOptions bench_attention_options;
  std::function<int()> verb;
  add_calibrate(app, calibrate_options, verb);
  add_inspect(app, inspect_options, verb);
  CLI::App* eval_app = app.add_subcommand("eval", "measure the quality of KV caches with stock programs");
  eval_app->require_subcommand(1);
  add_eval_kld(*eval_app, eval_kld_options, verb);
  add_eval_logits(*eval_app, eval_logits_options, verb);
  add_eval_decode(*eval_app, eval_decode_options, verb);
  add_eval_needle(*eval_app, eval_needle_options, verb);
  CLI::App* bench_app = app.add_subcommand("bench", "measure the speed of gtq's kernels");
  bench_app->require_subcommand(1);
  add_bench_attention(*bench_app, bench_attention_options, verb);
  const CLI::App* run_app = add_run(app, run_options, verb);

  // All behind the first "--" of `gtq run` is the program's, to the letter.
  const bool is_run = !arguments.empty() && arguments.front() == "run";
  const auto dashes = is_run ? std::find(arguments.begin(), arguments.end(), "--") : arguments.end();
  std::vector<std::string> own(arguments.begin(), dashes);
  try {
    std::reverse(own.begin(), own.end());  // what CLI11 asks of a vector
    app.parse(std::move(own));
    if (is_run) {
      run_options.command = run_app->remaining();
      if (!run_options.command.empty() && run_options.command.front().starts_with("-")) {
        throw CLI::ExtrasError("run", {run_options.command.front()});
      }
      if (dashes != arguments.end()) {
        const bool first = run_options.command.empty();
        run_options.command.insert(run_options.command.end(), first ? dashes + 1 : dashes, arguments.end());
      }
      if (run_options.command.empty()) throw CLI::RequiredError("a program after --");
    }
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    return fail(kExitUsage, fmt::format("{}; see gtq --help", error.what()));
  }
  return call_verb(verb);
}

}  // namespace
}  // namespace gtq::cli

int main(int argc, char** argv) {
  return gtq::cli::parse_and_call(std::vector<std::string>(argv + 1, argv + argc));
}
