// A model under llama.cpp's own API, for tests of caches. The stock f16 cache of the same process
// (offload_kqv = false) is the reference. Needs GGML_BACKEND_PATH, GTQ_TEST_LLAMA, GTQ_TEST_MODEL and
// GTQ_TEST_TEXT.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "ggml-backend.h"
#include "llama.h"

namespace gtq::testing {

using Logits = std::vector<float>;
using Context = std::unique_ptr<llama_context, decltype(&llama_free)>;

struct Place {
  llama_seq_id sequence;
  llama_pos first;
};

// Whether GTQ_KV keeps recent tokens in more bits.
inline bool keeps_recent() {
  const char* budget = std::getenv("GTQ_KV");
  return budget != nullptr && std::strchr(budget, 'r') != nullptr;
}

inline llama_model* model() {
  static llama_model* instance = [] {
    llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
    ggml_backend_load_all_from_path(std::getenv("GTQ_TEST_LLAMA"));
    return llama_model_load_from_file(std::getenv("GTQ_TEST_MODEL"), llama_model_default_params());
  }();
  return instance;
}

inline const std::vector<llama_token>& tokens() {
  static const std::vector<llama_token> instance = [] {
    std::ifstream file(std::getenv("GTQ_TEST_TEXT"));
    const std::string text(std::istreambuf_iterator<char>(file), {});
    std::vector<llama_token> result(text.size());
    result.resize(llama_tokenize(llama_model_get_vocab(model()), text.data(), static_cast<int>(text.size()),
                                 result.data(), static_cast<int>(result.size()), true, false));
    return result;
  }();
  return instance;
}

// `packed`: in the plugin's memory; else llama.cpp's own f16 cache. n_cells: per sequence. `look` is asked for
// every tensor.
inline Context context(bool packed, int n_sequences = 1, bool unified = false, int n_cells = 512,
                       ggml_backend_sched_eval_callback look = nullptr) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = n_cells * n_sequences;
  params.n_batch = params.n_ubatch = 1024;
  params.n_seq_max = n_sequences;
  params.kv_unified = unified;
  params.n_threads = params.n_threads_batch = 1;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.offload_kqv = packed;
  params.cb_eval = look;
  return {llama_init_from_model(model(), params), llama_free};
}

// Decodes tokens[begin, end) at every place in one batch; the logits of the last token at each place.
inline std::vector<Logits> decode(llama_context* ctx, int begin, int end, const std::vector<Place>& places) {
  const int n = end - begin;
  llama_batch batch = llama_batch_init(n * static_cast<int>(places.size()), 0, 1);
  for (const Place& place : places) {
    for (int i = 0; i < n; ++i) {
      const int j = batch.n_tokens++;
      batch.token[j] = tokens()[begin + i];
      batch.pos[j] = place.first + i;
      batch.n_seq_id[j] = 1;
      batch.seq_id[j][0] = place.sequence;
      batch.logits[j] = i == n - 1;
    }
  }
  EXPECT_EQ(llama_decode(ctx, batch), 0);
  std::vector<Logits> result;
  const int n_vocab = llama_vocab_n_tokens(llama_model_get_vocab(model()));
  for (std::size_t p = 0; p < places.size(); ++p) {
    const float* x = llama_get_logits_ith(ctx, n * static_cast<int>(p + 1) - 1);
    result.emplace_back(x, x + n_vocab);
  }
  llama_batch_free(batch);
  return result;
}

inline Logits decode(llama_context* ctx, int begin, int end, const Place& place = {0, 0}) {
  return decode(ctx, begin, end, std::vector<Place>{place})[0];
}

inline double log_sum(const Logits& x) {
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v));
  return std::log(sum);
}

inline double divergence(const Logits& reference, const Logits& x) {
  const double zr = log_sum(reference), zx = log_sum(x);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    sum += std::exp(reference[i] - zr) * (reference[i] - zr - x[i] + zx);
  return sum;
}

inline void expect_near(const Logits& expected, const Logits& actual, double limit, const char* what) {
  const double kld = divergence(expected, actual);
  EXPECT_LT(kld, limit) << what;
}

class CacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!std::ifstream(std::getenv("GTQ_TEST_MODEL")).good()) GTEST_SKIP() << "the model is missing";
    ASSERT_NE(model(), nullptr);
  }
};

}  // namespace gtq::testing
