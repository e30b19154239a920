// gtq eval decode: the cache is filled by a prompt and then token by token, as in generation, so that its
// errors feed on themselves. The f16 cache samples a text; each other cache is forced along it and its logits
// are compared, in float, with those of f16. Identical logits show as a largest change of exactly 0.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <functional>
#include <random>

#include "divergence.h"
#include "eval_cache.h"
#include "gtq/error.h"
#include "llama_session.h"
#include "model_file.h"
#include "paths.h"
#include "profile_cache.h"
#include "text.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

// Anonymous memory that a child process fills for this one. Pages that are never written cost nothing.
template <typename T>
class SharedArray {
 public:
  explicit SharedArray(std::size_t n) : n_(n) {
    void* memory =
        mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("out of memory; use fewer tokens (-p, -n)");
    data_ = static_cast<T*>(memory);
  }
  ~SharedArray() { munmap(data_, n_ * sizeof(T)); }
  SharedArray(const SharedArray&) = delete;
  SharedArray& operator=(const SharedArray&) = delete;
  T& operator[](std::size_t i) { return data_[i]; }
  T* data() { return data_; }

 private:
  T* data_;
  std::size_t n_;
};

struct Comparison {
  float kld;
  float change;  // largest |logit - logit of f16|
  bool same_top;
};

// What the process of one cache tells: header, tokens, comparisons [n_tokens].
struct Header {
  int n_vocab;
  double kv_mib;
};

Comparison compare(const float* base, const float* other, int n) {
  const auto top = [n](const float* x) { return std::max_element(x, x + n) - x; };
  const auto n_vocab = static_cast<std::size_t>(n);
  float change = 0;
  for (int i = 0; i < n; ++i) change = std::max(change, std::fabs(base[i] - other[i]));
  const double kld = softmax_divergence<float>({base, n_vocab}, {other, n_vocab});
  return {static_cast<float>(kld), change, top(base) == top(other)};
}

llama_token sample(const float* logits, int n, std::mt19937& random) {
  const float shift = *std::max_element(logits, logits + n);
  std::vector<double> weights(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) weights[i] = std::exp(static_cast<double>(logits[i] - shift));
  return std::discrete_distribution<llama_token>(weights.begin(), weights.end())(random);
}

ggml_type type_named(const std::string& name) {
  for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
    const char* known = ggml_type_name(static_cast<ggml_type>(type));
    if (known != nullptr && name == known) return static_cast<ggml_type>(type);
  }
  throw Error(fmt::format("llama.cpp has no type {}", name));
}

// Runs `work` in a child process. Throws Error when it fails; it has then said why.
void in_child(const std::function<void()>& work) {
  std::fflush(stdout);
  const pid_t child = fork();
  if (child < 0) throw Error("no process could be started");
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    int code = kExitOk;
    try {
      work();
    } catch (const std::exception& error) {
      fmt::print(stderr, "gtq: {}\n", error.what());
      code = kExitError;
    }
    std::fflush(stdout);
    _exit(code);
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) throw Error("a measurement failed; the reason is above");
}

class DecodeEval {
 public:
  DecodeEval(const EvalDecodeOptions& options, fs::path profile)
      : options_(options),
        profile_(std::move(profile)),
        n_tokens_(static_cast<std::size_t>(options.n_prompt + options.n_decode)),
        header_(1),
        tokens_(n_tokens_),
        logits_(n_tokens_ * kMaxVocab),
        comparisons_(n_tokens_) {}

  void run(const std::vector<EvalCache>& caches) {
    in_child([this] { base(); });
    const double f16_mib = header_[0].kv_mib;
    fmt::print(
        "{} tokens of prompt, then {} sampled by f16 (seed 1)\n\n"
        "| cache | true bits | prompt: mean KLD | same top, % | max logit change | decode: mean KLD | 99.9 % | "
        "same top, % | max logit change |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        options_.n_prompt, options_.n_decode);
    for (const EvalCache& cache : caches) {
      in_child([this, &cache] { other(cache); });
      print(cache.name, true_bits(cache, header_[0].kv_mib, f16_mib, profile_));
    }
  }

 private:
  static constexpr std::size_t kMaxVocab = std::size_t{1} << 19;

  void keep(std::span<const float> logits, std::size_t first) {
    std::copy(logits.begin(), logits.end(), logits_.data() + first * header_[0].n_vocab);
  }

  // nullptr: the stock f16 cache.
  LlamaSession session(const EvalCache* cache) {
    load_llama(cache != nullptr ? cache->environment(profile_) : std::vector<std::string>());
    LlamaSession s(options_.model);
    LlamaSession::Context context = {
        .n_tokens = static_cast<int>((n_tokens_ + 255) / 256 * 256),
        .n_threads = options_.n_threads > 0 ? options_.n_threads : default_threads(),
        .with_logits = true};
    if (cache != nullptr && !cache->stock_type.empty()) context.cache_type = type_named(cache->stock_type);
    s.open_context(context);
    return s;
  }

  void base() {
    LlamaSession s = session(nullptr);
    header_[0] = {s.n_vocab(), s.kv_mib()};
    if (static_cast<std::size_t>(s.n_vocab()) > kMaxVocab) throw Error("this vocabulary is too large");
    std::vector<llama_token> prompt = s.tokenize(read_text_file(options_.text, std::size_t{1} << 24));
    if (s.bos() != LLAMA_TOKEN_NULL) prompt.insert(prompt.begin(), s.bos());
    const auto n_prompt = static_cast<std::size_t>(options_.n_prompt);
    if (prompt.size() < n_prompt) {
      throw Error(
          fmt::format("the text has only {} tokens; use a longer one or -p {}", prompt.size(), prompt.size()));
    }
    std::copy_n(prompt.begin(), n_prompt, tokens_.data());
    std::mt19937 random(1);
    std::span<const float> logits = s.feed({tokens_.data(), n_prompt});
    keep(logits, 0);
    for (std::size_t i = n_prompt; i < n_tokens_; ++i) {
      const int n = s.n_vocab();
      tokens_[i] = sample(logits.data() + logits.size() - n, n, random);
      logits = s.feed({&tokens_[i], 1});
      keep(logits, i);
    }
  }

  void other(const EvalCache& cache) {
    LlamaSession s = session(&cache);
    header_[0].kv_mib = s.kv_mib();
    const int n = s.n_vocab();
    const auto n_prompt = static_cast<std::size_t>(options_.n_prompt);
    const std::span<const float> logits = s.feed({tokens_.data(), n_prompt});
    for (std::size_t i = 0; i < n_prompt; ++i)
      comparisons_[i] = compare(logits_.data() + i * n, &logits[i * n], n);
    for (std::size_t i = n_prompt; i < n_tokens_; ++i) {
      comparisons_[i] = compare(logits_.data() + i * n, s.feed({&tokens_[i], 1}).data(), n);
    }
  }

  std::string summary(std::size_t begin, std::size_t end, bool with_tail) {
    std::vector<float> kld;
    double sum = 0, top = 0;
    float change = 0;
    for (std::size_t i = begin; i < end; ++i) {
      kld.push_back(comparisons_[i].kld);
      sum += comparisons_[i].kld;
      top += comparisons_[i].same_top ? 1 : 0;
      change = std::max(change, comparisons_[i].change);
    }
    const auto n = static_cast<double>(kld.size());
    double square = 0;
    for (const float x : kld) square += (x - sum / n) * (x - sum / n);
    std::sort(kld.begin(), kld.end());
    const std::string tail =
        with_tail ? fmt::format(" {:.4f} |", kld[static_cast<std::size_t>(0.999 * (n - 1))]) : "";
    return fmt::format(" {:.6f} ± {:.6f} |{} {:.2f} | {:.3g} |", sum / n, std::sqrt(square / (n - 1) / n), tail,
                       100 * top / n, change);
  }

  void print(const std::string& name, double bits) {
    const auto n_prompt = static_cast<std::size_t>(options_.n_prompt);
    fmt::print("| {} | {:.3f} |{}{}\n", name, bits, summary(0, n_prompt, false),
               summary(n_prompt, n_tokens_, true));
    std::fflush(stdout);
  }

  const EvalDecodeOptions& options_;
  fs::path profile_;
  std::size_t n_tokens_;
  SharedArray<Header> header_;
  SharedArray<llama_token> tokens_;
  SharedArray<float> logits_;
  SharedArray<Comparison> comparisons_;
};

}  // namespace

int eval_decode(const EvalDecodeOptions& options) {
  const std::vector<EvalCache> caches = parse_eval_caches(options.caches);
  check_model_file(options.model);
  if (!fs::exists(options.text)) throw Error(fmt::format("there is no text {}", printable(options.text)));
  const fs::path profile =
      fs::absolute(options.profile.empty() ? cached_profile(options.model) : fs::path(options.profile));
  DecodeEval(options, profile).run(caches);
  return kExitOk;
}

}  // namespace gtq::cli
