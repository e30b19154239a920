// libllama as calibration and `eval logits` need it: one model on the recording plugin, tokens in, nothing out.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
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

// Makes llama.cpp quiet (only its error lines pass), loads its backends and the plugin. Once per process;
// throws Error when something is missing.
Recorder load_recorder();

// One per core this process may use: two threads of one core only wait for each other.
int default_threads();

// The folder libggml was loaded from: its backends lie there, whatever the build tree is called by now.
std::filesystem::path ggml_dir();

class LlamaSession {
 public:
  // Throws Error when the model cannot be loaded or cannot be calibrated.
  LlamaSession(const std::filesystem::path& model, const Recorder& recorder);

  std::string model_name() const;  // general.name, else the file's name
  llama_token bos() const;         // LLAMA_TOKEN_NULL when the model wants none
  int max_context() const;
  std::vector<llama_token> tokenize(std::string_view text) const;

  // Makes room for chunks of n_tokens; before the first feed().
  void open_context(int n_tokens, int n_threads);
  // A chunk is a sequence of its own, starting at position 0.
  void feed(const std::vector<llama_token>& tokens);

 private:
  std::filesystem::path path_;
  Recorder recorder_;
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_{nullptr, &llama_model_free};
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, &llama_free};
};

}  // namespace gtq::cli
