#include "llama_session.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>

#include "eval_cache.h"
#include "ggml-backend.h"
#include "gtq/error.h"
#include "paths.h"
#include "stock_program.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

std::string g_log;             // llama.cpp says there, and nowhere else, how large its cache is
bool g_out_of_memory = false;  // and this

void keep_log(ggml_log_level level, const char* text, void*) {
  g_log += text;
  static ggml_log_level last = GGML_LOG_LEVEL_NONE;
  if (level != GGML_LOG_LEVEL_CONT) last = level;
  if (last != GGML_LOG_LEVEL_ERROR) return;
  const std::string_view line = text;
  if (line.find("alloc") != std::string_view::npos) g_out_of_memory = true;
  std::fputs(text, stderr);
}

// A failed assertion inside ggml would otherwise end in a core dump without a word from gtq.
void on_ggml_abort(const char* message) {
  std::fprintf(stderr, "gtq: llama.cpp stopped (%s); nothing was written, please report this model\n", message);
  _exit(1);
}

// libgomp calls exit() when the system gives it no threads.
bool g_inside_llama = false;
void on_exit_inside_llama() {
  if (!g_inside_llama) return;
  std::fputs("gtq: llama.cpp gave up, most likely for want of memory or threads; use fewer threads (-t)\n",
             stderr);
}

[[noreturn]] void throw_llama_failure(const fs::path& model, const char* what) {
  if (g_out_of_memory) {
    throw Error(fmt::format("not enough memory to {} {}; close other programs or use a smaller quantization",
                            what, printable(model.string())));
  }
  throw Error(fmt::format("llama.cpp could not {} {}; it may be damaged or newer than this llama.cpp", what,
                          printable(model.string())));
}

}  // namespace

fs::path ggml_dir() {
  Dl_info info = {};
  if (dladdr(reinterpret_cast<void*>(&ggml_backend_load_all_from_path), &info) != 0 &&
      info.dli_fname != nullptr) {
    return fs::path(info.dli_fname).parent_path();
  }
  return llama_bin_dir();
}

int default_threads() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    std::ifstream file(fmt::format("/sys/devices/system/cpu/cpu{}/topology/thread_siblings", cpu));
    std::string siblings;
    if (!std::getline(file, siblings)) siblings = std::to_string(cpu);
    cores.insert(siblings);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

void load_llama(const std::vector<std::string>& environment) {
  llama_log_set(keep_log, nullptr);
  ggml_set_abort_callback(on_ggml_abort);
  std::atexit(on_exit_inside_llama);
  set_plugin_environment(environment);
  const fs::path dir = ggml_dir();
  ggml_backend_load_all_from_path(dir.c_str());
  if (ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) == nullptr) {
    throw Error(fmt::format("no CPU backend of llama.cpp in {}; build llama.cpp there", dir.string()));
  }
}

Recorder load_recorder() {
  const fs::path plugin = plugin_path();
  load_llama({"GTQ_RECIPE=record"});
  ggml_backend_reg_t reg = ggml_backend_load(plugin.c_str());
  if (reg == nullptr || ggml_backend_reg_dev_count(reg) == 0) {
    throw Error(fmt::format("llama.cpp refused the plugin {}; it belongs to another version of llama.cpp",
                            plugin.string()));
  }
  Recorder recorder;
  recorder.device = ggml_backend_reg_dev_get(reg, 0);
  recorder.tokens = reinterpret_cast<RecorderTokensFn>(ggml_backend_reg_get_proc_address(reg, kRecorderTokens));
  recorder.finish = reinterpret_cast<RecorderFinishFn>(ggml_backend_reg_get_proc_address(reg, kRecorderFinish));
  recorder.listen = reinterpret_cast<RecorderListenFn>(ggml_backend_reg_get_proc_address(reg, kRecorderListen));
  if (recorder.tokens == nullptr || recorder.finish == nullptr || recorder.listen == nullptr) {
    throw Error(fmt::format("the plugin {} cannot record; build it again together with gtq", plugin.string()));
  }
  return recorder;
}

LlamaSession::LlamaSession(const fs::path& model, ggml_backend_dev_t device) : path_(model) {
  ggml_backend_dev_t devices[] = {device, nullptr};
  llama_model_params params = llama_model_default_params();
  if (device != nullptr) params.devices = devices;
  params.n_gpu_layers = -1;
  model_.reset(llama_model_load_from_file(model.c_str(), params));
  if (!model_) throw_llama_failure(path_, "load");
  const std::string name = printable(model.string());
  if (llama_model_is_recurrent(model_.get()) || !llama_model_has_decoder(model_.get())) {
    throw Error(fmt::format("{} keeps no keys and values between tokens; gtq has nothing to pack there", name));
  }
  if (llama_model_rope_type(model_.get()) == LLAMA_ROPE_TYPE_NONE) {
    throw Error(
        fmt::format("{} does not rotate its keys by position (RoPE); gtq needs a model that does", name));
  }
}

std::string LlamaSession::model_name() const {
  char name[256] = {};
  if (llama_model_meta_val_str(model_.get(), "general.name", name, sizeof name) > 0) return name;
  return path_.stem().string();
}

llama_token LlamaSession::bos() const {
  const llama_vocab* vocab = llama_model_get_vocab(model_.get());
  return llama_vocab_get_add_bos(vocab) ? llama_vocab_bos(vocab) : LLAMA_TOKEN_NULL;
}

int LlamaSession::max_context() const { return llama_model_n_ctx_train(model_.get()); }
int LlamaSession::n_vocab() const { return llama_vocab_n_tokens(llama_model_get_vocab(model_.get())); }
double LlamaSession::kv_mib() const { return logged_kv_mib(g_log); }

std::vector<llama_token> LlamaSession::tokenize(std::string_view text) const {
  const llama_vocab* vocab = llama_model_get_vocab(model_.get());
  const auto n_bytes = static_cast<std::int32_t>(text.size());
  std::vector<llama_token> tokens(text.size() + 8);
  const std::int32_t n = llama_tokenize(vocab, text.data(), n_bytes, tokens.data(),
                                        static_cast<std::int32_t>(tokens.size()), false, false);
  if (n < 0) throw Error(fmt::format("{} cannot tokenise the text", printable(path_.string())));
  tokens.resize(static_cast<std::size_t>(n));
  return tokens;
}

void LlamaSession::open_context(const Context& context) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = static_cast<std::uint32_t>(context.n_tokens);
  if (!context.with_logits) {
    params.n_ubatch = params.n_batch;
    params.n_outputs_max = 1;  // none is asked for; the default reserves a row of logits per token
  }
  params.n_threads = params.n_threads_batch = context.n_threads;
  params.type_k = params.type_v = context.cache_type;
  with_logits_ = context.with_logits;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  g_inside_llama = true;
  context_.reset(llama_init_from_model(model_.get(), params));
  g_inside_llama = false;
  if (!context_) throw_llama_failure(path_, "run");
  if (llama_get_memory(context_.get()) == nullptr) {
    throw Error(
        fmt::format("{} has no KV cache; gtq needs a model that generates text", printable(path_.string())));
  }
}

void LlamaSession::clear() {
  llama_memory_clear(llama_get_memory(context_.get()), true);
  position_ = 0;
}

std::span<const float> LlamaSession::feed(std::span<const llama_token> tokens) {
  llama_batch batch = llama_batch_init(static_cast<std::int32_t>(tokens.size()), 0, 1);
  batch.n_tokens = static_cast<std::int32_t>(tokens.size());
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = position_++;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = with_logits_ ? 1 : 0;
  }
  g_inside_llama = true;
  const int status = llama_decode(context_.get(), batch);
  g_inside_llama = false;
  llama_batch_free(batch);
  if (status != 0) throw_llama_failure(path_, "run");
  if (!with_logits_) return {};
  return {llama_get_logits(context_.get()), tokens.size() * static_cast<std::size_t>(n_vocab())};
}

}  // namespace gtq::cli
