// How program gtq talks to the recorder inside the plugin: plain C functions that the plugin's registry hands
// out by name (ggml_backend_reg_get_proc_address). The plugin records when it is loaded with
// GTQ_RECIPE=record: the cache is llama.cpp's own f16 one and every batch is added to sums per layer, KV head
// and rope_block. Whoever wants the rows themselves listens.
#pragma once

#include <cstddef>
#include <cstdint>

namespace gtq {

// Tokens whose keys have been seen so far (the least over the layers), since load.
inline constexpr const char* kRecorderTokens = "gtq_recorder_tokens";
using RecorderTokensFn = std::int64_t (*)();

// Turns the sums into a profile and writes it to `path`. False: one sentence in `error`, no file at `path`.
inline constexpr const char* kRecorderFinish = "gtq_recorder_finish";
using RecorderFinishFn = bool (*)(const char* path, const char* model_name, const char* text_source,
                                  char* error, std::size_t error_size);

// What the attention of one layer takes in for one batch, in float before the cache rounds it: queries and
// keys after RoPE.
struct RecordedRows {
  std::uint64_t fingerprint;  // of the model, as in a Profile
  int layer;
  int n_q_heads, n_kv_heads, head_dim_k, head_dim_v;
  float sm_scale;
  std::int64_t n_tokens;
  const float* queries;           // [n_tokens][n_q_heads][head_dim_k]
  const float* keys;              // [n_tokens][n_kv_heads][head_dim_k]
  const float* values;            // [n_tokens][n_kv_heads][head_dim_v]
  const std::int32_t* positions;  // [n_tokens]
};

// From now on `listener` is called once per layer and batch, on the thread that runs the model, and must not
// throw; the rows are gone when it returns.
inline constexpr const char* kRecorderListen = "gtq_recorder_listen";
using RecorderListener = void (*)(void* user, const RecordedRows& rows);
using RecorderListenFn = void (*)(RecorderListener listener, void* user);

}  // namespace gtq
