// The verbs of program gtq. Each returns the exit code and throws Error with a sentence for the user.
#pragma once

#include <string>
#include <vector>

namespace gtq::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitError = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

inline constexpr int kMinTokens = 64;  // fewer cannot give stable energies; the library refuses them too

struct CalibrateOptions {
  std::string model;
  std::string text;    // file, empty: the text inside the program
  std::string output;  // empty: beside the model
  int n_threads = 0;   // 0: one per core
  int n_tokens = 2048;
  int chunk_tokens = 256;
};
int calibrate(const CalibrateOptions& options);

struct InspectOptions {
  std::string profile;
  std::string kv = "k4v4";
  bool json = false;
  bool html = false;
};
int inspect(const InspectOptions& options);

struct RunOptions {
  std::string kv = "k4v4";
  std::string recipe = "gtq";
  std::string profile;               // empty: from the cache, made on first use
  std::vector<std::string> command;  // program and its arguments
};
// Does not return when the program could be started.
int run(const RunOptions& options);

// What all verbs of `gtq eval` have.
struct EvalOptions {
  std::string model, text;
  std::string profile;  // empty: from the cache, made on first use
  int n_threads = 0;    // 0: one per core
};

struct EvalKldOptions : EvalOptions {
  std::string calibrate;  // text to make the profile from, empty: the one inside the program
  std::string caches = "f16,q8_0,q5_0,q4_0,k4v4,k3v3,block-gtq-k3v3,tq-mse-k3v3";
  std::string output = "gtq-eval";
  int n_ctx = 512;
  int n_chunks = 20;
};
int eval_kld(const EvalKldOptions& options);

struct EvalLogitsOptions : EvalOptions {
  std::string calibrate;  // as for EvalKldOptions
  std::string output = "gtq-eval";
  int n_tokens = 2048;
};
int eval_logits(const EvalLogitsOptions& options);

struct EvalDecodeOptions : EvalOptions {
  std::string caches = "f16,q8_0,q4_0,k4v4,k3v3";
  int n_prompt = 256;
  int n_decode = 1024;
};
int eval_decode(const EvalDecodeOptions& options);

// `text` is what facts are hidden in, empty: the calibration text inside the program.
struct EvalNeedleOptions : EvalOptions {
  std::string caches = "f16,q8_0,q4_0,k4v4,k3v3";
  std::string tasks = "single,distractor,multi,multikey,multivalue,multiquery";
  std::string lengths = "1024,2048,4096,8192";
  std::string output = "gtq-eval";
  int n_depths = 5;
  int seed = 1;
};
int eval_needle(const EvalNeedleOptions& options);

struct BenchAttentionOptions {
  std::vector<int> head_dims = {64, 128};
  std::vector<int> groups = {1, 4, 6, 8};  // query heads per KV head
  std::vector<int> lengths = {4096, 16384, 65536};
  std::vector<int> rows = {1};  // query rows
  std::vector<std::string> budgets = {"k3v3", "k4v4"};
  std::vector<int> means = {0, 1};
  std::vector<std::string> kernels;  // empty: the fastest one
  std::string peer;                  // folder of ggml's CPU backend, empty: llama.cpp's; "none"
  std::string output;                // JSON file, or empty
  int n_threads = 1;
  int n_rounds = 21;
  int spread_mib = 64;
};
int bench_attention(const BenchAttentionOptions& options);

}  // namespace gtq::cli
