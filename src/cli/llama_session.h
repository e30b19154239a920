// libllama in this process: one model, tokens in; out come logits, or what the recording plugin sees.
// llama.cpp reads its plugin's settings once per process, so each setting needs a process of its own.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama.h"
#include "plugin/recorder_api.h"

namespace gtq::cli {

// The plugin, loaded into this process with GTQ_RECIPE=record.
struct Recorder {
  ggml_backend_dev_t device = nullptr;
  RecorderTokensFn tokens = nullptr;
  RecorderFinishFn finish = nullptr;
  RecorderListenFn listen = nullptr;
};

// Both make llama.cpp quiet (only its error lines pass) and load its backends and the plugin. One of them, once
// per process; throw Error when something is missing.
Recorder load_recorder();
// With the plugin's variables ("NAME=value"), none for a stock program.
void load_llama(const std::vector<std::string>& environment);

// One per core this process may use: two threads of one core only wait for each other.
int default_threads();

// The folder libggml was loaded from: its backends lie there, whatever the build tree is called by now.
std::filesystem::path ggml_dir();

class LlamaSession {
 public:
  // On that device, nullptr: as a stock program would. Throws Error when the model cannot be loaded or keeps no
  // keys that RoPE has rotated.
  explicit LlamaSession(const std::filesystem::path& model, ggml_backend_dev_t device = nullptr);

  std::string model_name() const;  // general.name, else the file's name
  llama_token bos() const;         // LLAMA_TOKEN_NULL when the model wants none
  int max_context() const;
  int n_vocab() const;
  std::vector<llama_token> tokenize(std::string_view text) const;  // without BOS

  struct Context {
    int n_tokens;  // of a sequence
    int n_threads;
    bool with_logits = false;  // else a sequence is computed in one go
    ggml_type cache_type = GGML_TYPE_F16;
  };
  // Before the first feed().
  void open_context(const Context& context);
  double kv_mib() const;  // as llama.cpp logs it

  // Starts the sequence anew.
  void clear();
  // Appends tokens to the sequence; the span holds logits [tokens][n_vocab], or none, until the next call.
  std::span<const float> feed(std::span<const llama_token> tokens);

 private:
  std::filesystem::path path_;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_{nullptr, &llama_model_free};
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, &llama_free};
  bool with_logits_ = false;
  llama_pos position_ = 0;
};

}  // namespace gtq::cli
