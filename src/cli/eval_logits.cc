// gtq eval logits: what each recipe does to the attention of every layer, on rows that the recorder hands out
// while llama.cpp runs a text with its own f16 cache. Each layer is measured as its rows come by, so that no
// more than one layer of them is kept.
#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "attention_meter.h"
#include "coded_rows.h"
#include "gtq/error.h"
#include "llama_session.h"
#include "logits_report.h"
#include "model_file.h"
#include "paths.h"
#include "profile_cache.h"
#include "text.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

constexpr const char* kCaches =
    "tq-mse-k2v2,block-gtq-k2v2,k2v2,tq-mse-k3v3,block-gtq-k3v3,k3v3,tq-mse-k4v4,block-gtq-k4v4,k4v4";
constexpr int kQueryRows = 64;      // per layer and head; all tokens would cost a square
constexpr int kBytesPerToken = 64;  // at most

class LayerListener {
 public:
  LayerListener(Profile profile, int n_threads)
      : profile_(std::move(profile)), caches_(parse_eval_caches(kCaches)), n_threads_(n_threads) {}

  // For the recorder; what goes wrong is kept for rows().
  static void listen(void* self, const RecordedRows& rows) {
    auto& listener = *static_cast<LayerListener*>(self);
    if (listener.problem_) return;
    try {
      listener.measure(rows);
    } catch (...) {
      listener.problem_ = std::current_exception();
    }
  }

  const std::vector<LayerErrors>& rows() const {
    if (problem_) std::rethrow_exception(problem_);
    return rows_;
  }

 private:
  void measure(const RecordedRows& rows) {
    const LayerProfile& layer = checked_layer(rows);
    const AttentionMeter meter(rows, layer.rope, kQueryRows);
    std::vector<LayerErrors> errors(caches_.size());
    in_threads(caches_.size(), [&](std::size_t i) {
      const CodedRows coded = code_rows(caches_[i], layer, rows);
      const double n_k = rows.head_dim_k, n_v = rows.head_dim_v;
      errors[i] = {rows.layer,
                   caches_[i].name,
                   coded.true_bits_k,
                   (coded.true_bits_k * n_k + coded.true_bits_v * n_v) / (n_k + n_v),
                   meter.logit_mae(coded.keys.data()),
                   meter.key_divergence(coded.keys.data()),
                   meter.output_error(coded.keys.data(), coded.values.data())};
    });
    rows_.insert(rows_.end(), errors.begin(), errors.end());
    if (isatty(STDERR_FILENO)) fmt::print(stderr, "\rlayer {}\x1b[K\r", rows.layer);
  }

  const LayerProfile& checked_layer(const RecordedRows& rows) const {
    const LayerProfile* layer = profile_.find_layer(rows.layer);
    if (rows.fingerprint != profile_.fingerprint || layer == nullptr || layer->n_q_heads != rows.n_q_heads ||
        layer->n_kv_heads != rows.n_kv_heads || layer->head_dim_k != rows.head_dim_k ||
        layer->head_dim_v != rows.head_dim_v) {
      throw Error(fmt::format(
          "the profile was made for another model (\"{}\"); leave out --profile or make one with gtq calibrate",
          printable(profile_.model_name)));
    }
    return *layer;
  }

  // work(0) ... work(n - 1), each once, on several threads.
  void in_threads(std::size_t n, const std::function<void(std::size_t)>& work) const {
    std::atomic<std::size_t> next{0};
    std::exception_ptr problem;
    std::mutex mutex;
    const auto run = [&] {
      try {
        for (std::size_t i = next++; i < n; i = next++) work(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        problem = std::current_exception();
      }
    };
    {
      std::vector<std::jthread> threads;
      for (int t = 1; t < n_threads_; ++t) threads.emplace_back(run);
      run();
    }
    if (problem) std::rethrow_exception(problem);
  }

  Profile profile_;
  std::vector<EvalCache> caches_;
  int n_threads_;
  std::vector<LayerErrors> rows_;
  std::exception_ptr problem_;
};

// Returns how many tokens were fed.
std::size_t feed_text(LlamaSession& session, const std::string& text, const EvalLogitsOptions& options,
                      int n_threads) {
  const auto n_tokens = static_cast<std::size_t>(std::min(options.n_tokens, session.max_context()));
  const auto chunks = make_chunks(session.tokenize(text), session.bos(), n_tokens, n_tokens);
  const std::size_t n = chunks.empty() ? 0 : chunks.front().size();
  if (n < static_cast<std::size_t>(kMinTokens)) {
    throw Error(fmt::format("the text {} has {} tokens; at least {} are needed, {} are better",
                            printable(options.text), n, kMinTokens, options.n_tokens));
  }
  session.open_context({.n_tokens = static_cast<int>(n), .n_threads = n_threads});
  session.feed(chunks.front());
  return n;
}

}  // namespace

int eval_logits(const EvalLogitsOptions& options) {
  check_model_file(options.model);
  const std::string text =
      read_text_file(options.text, static_cast<std::size_t>(options.n_tokens) * kBytesPerToken);
  make_output_folder(options.output);
  const fs::path profile = choose_profile(options.model, options.profile, options.calibrate, options.output);
  const int n_threads = options.n_threads > 0 ? options.n_threads : default_threads();
  LayerListener listener(read_profile(profile.string()), n_threads);

  const Recorder recorder = load_recorder();
  recorder.listen(LayerListener::listen, &listener);
  LlamaSession session(options.model, recorder.device);
  const std::size_t n_tokens = feed_text(session, text, options, n_threads);
  if (listener.rows().empty()) {
    throw Error(fmt::format("the plugin saw no keys; {} has attention of a kind gtq does not know",
                            printable(options.model)));
  }
  const fs::path csv = fs::path(options.output) / "logits.csv";
  write_logits_csv(csv, listener.rows());
  fmt::print("{}, one sequence of {} tokens; every layer is in {}\n\n{}", printable(session.model_name()),
             n_tokens, csv.string(), summary_tables(listener.rows()));
  return kExitOk;
}

}  // namespace gtq::cli
