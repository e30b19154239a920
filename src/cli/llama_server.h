// A stock llama-server of our own on a free port of this machine, ended with the object.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace httplib {
class Client;
}

namespace gtq::cli {

class LlamaServer {
 public:
  // Returns when the model is loaded. Throws Error, which names the log, when that fails.
  LlamaServer(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
              const std::filesystem::path& log);
  ~LlamaServer();
  LlamaServer(const LlamaServer&) = delete;
  LlamaServer& operator=(const LlamaServer&) = delete;

  int count_tokens(const std::string& text);
  // The answer of the model's chat template to one message, greedy.
  std::string chat(const std::string& message, int max_tokens);

 private:
  std::string post(const std::string& path, const std::string& json);

  std::filesystem::path log_;
  pid_t child_ = -1;
  std::unique_ptr<httplib::Client> client_;
};

}  // namespace gtq::cli
