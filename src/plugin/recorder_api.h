// How `gtq calibrate` talks to the recorder inside the plugin: plain C functions that the plugin's registry
// hands out by name (ggml_backend_reg_get_proc_address). The plugin records when it is loaded with
// GTQ_RECIPE=record: the cache is llama.cpp's own f16 one and every batch is added to sums per layer, KV head
// and rope_block.
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

}  // namespace gtq
