// Logits of a model through libllama with one KV cache, as a stock program would compute them. llama.cpp reads
// its plugin's settings once per process, so each cache gets a process of its own (eval_decode.cc).
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "eval_cache.h"
#include "llama.h"

namespace gtq::cli {

class LogitsSession {
 public:
  // Sets the process's environment, loads llama.cpp's backends, the plugin and the model. `cache` nullptr: the
  // stock f16 cache. Throws Error.
  LogitsSession(const std::filesystem::path& model, const EvalCache* cache,
                const std::filesystem::path& profile, int n_ctx, int n_threads);

  std::vector<llama_token> tokenize(const std::string& text) const;  // with BOS where the model wants it
  int n_vocab() const;
  double kv_mib() const;  // as llama.cpp logs it

  // Appends tokens to the one sequence; the span holds logits [tokens][n_vocab] until the next call.
  std::span<const float> feed(std::span<const llama_token> tokens);

 private:
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_{nullptr, &llama_model_free};
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, &llama_free};
  int position_ = 0;
};

}  // namespace gtq::cli
