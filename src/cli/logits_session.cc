#include "logits_session.h"

#include <fmt/format.h>

#include <cstdlib>

#include "ggml-backend.h"
#include "gtq/error.h"
#include "llama_session.h"
#include "paths.h"
#include "stock_program.h"

namespace gtq::cli {
namespace {

std::string g_log;  // llama.cpp's, for the size of its cache

void keep_log(ggml_log_level level, const char* text, void*) {
  g_log += text;
  if (level == GGML_LOG_LEVEL_ERROR) std::fputs(text, stderr);
}

ggml_type type_named(const std::string& name) {
  for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
    const char* known = ggml_type_name(static_cast<ggml_type>(type));
    if (known != nullptr && name == known) return static_cast<ggml_type>(type);
  }
  throw Error(fmt::format("llama.cpp has no type {}", name));
}

}  // namespace

LogitsSession::LogitsSession(const std::filesystem::path& model, const EvalCache* cache,
                             const std::filesystem::path& profile, int n_ctx, int n_threads) {
  set_plugin_environment(cache != nullptr ? cache->environment(profile) : std::vector<std::string>());
  llama_log_set(keep_log, nullptr);
  ggml_backend_load_all_from_path(ggml_dir().c_str());  // and the plugin, named by GGML_BACKEND_PATH
  model_.reset(llama_model_load_from_file(model.c_str(), llama_model_default_params()));
  if (!model_) throw Error(fmt::format("llama.cpp could not load {}", printable(model.string())));
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<std::uint32_t>(n_ctx);
  params.n_threads = params.n_threads_batch = n_threads;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  if (cache != nullptr && !cache->stock_type.empty())
    params.type_k = params.type_v = type_named(cache->stock_type);
  context_.reset(llama_init_from_model(model_.get(), params));
  if (!context_) throw Error(fmt::format("llama.cpp could not run {}", printable(model.string())));
}

std::vector<llama_token> LogitsSession::tokenize(const std::string& text) const {
  const llama_vocab* vocab = llama_model_get_vocab(model_.get());
  std::vector<llama_token> tokens(text.size() + 8);
  const int n = llama_tokenize(vocab, text.data(), static_cast<std::int32_t>(text.size()), tokens.data(),
                               static_cast<std::int32_t>(tokens.size()), true, false);
  if (n < 0) throw Error("the text cannot be tokenised");
  tokens.resize(static_cast<std::size_t>(n));
  return tokens;
}

int LogitsSession::n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model_.get())); }
double LogitsSession::kv_mib() const { return logged_kv_mib(g_log); }

std::span<const float> LogitsSession::feed(std::span<const llama_token> tokens) {
  llama_batch batch = llama_batch_init(static_cast<std::int32_t>(tokens.size()), 0, 1);
  batch.n_tokens = static_cast<std::int32_t>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = position_++;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  const int status = llama_decode(context_.get(), batch);
  llama_batch_free(batch);
  if (status != 0) throw Error(fmt::format("llama.cpp could not compute (code {})", status));
  return {llama_get_logits(context_.get()), tokens.size() * static_cast<std::size_t>(n_vocab())};
}

}  // namespace gtq::cli
