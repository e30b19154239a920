#include "llama_server.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <httplib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "gtq/error.h"
#include "paths.h"
#include "stock_program.h"

namespace gtq::cli {
namespace {

constexpr int kStartSeconds = 600;    // a large model from a slow disk
constexpr int kAnswerSeconds = 7200;  // a long prompt on few cores

int free_port() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool ok = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (fd >= 0) close(fd);
  if (!ok) throw Error("no network port is free for llama-server");
  return ntohs(address.sin_port);
}

}  // namespace

LlamaServer::LlamaServer(const std::vector<std::string>& arguments, const std::vector<std::string>& environment,
                         const std::filesystem::path& log)
    : log_(log) {
  const int port = free_port();
  StockCommand command = {"llama-server", arguments, environment, log};
  command.arguments.insert(command.arguments.end(), {"--host", "127.0.0.1", "--port", std::to_string(port)});
  child_ = start(command);
  client_ = std::make_unique<httplib::Client>("127.0.0.1", port);
  client_->set_read_timeout(kAnswerSeconds);
  for (int i = 0; i < 10 * kStartSeconds; ++i) {
    if (const auto health = client_->Get("/health"); health && health->status == 200) return;
    if (waitpid(child_, nullptr, WNOHANG) == child_) {
      child_ = -1;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  if (child_ > 0) kill(child_, SIGKILL);
  throw Error(fmt::format("llama-server did not start; its log is {}", log_.string()));
}

LlamaServer::~LlamaServer() {
  if (child_ <= 0) return;
  kill(child_, SIGTERM);
  waitpid(child_, nullptr, 0);
}

std::string LlamaServer::post(const std::string& path, const std::string& json) {
  const auto answer = client_->Post(path.c_str(), json, "application/json");
  if (answer && answer->status == 200) return answer->body;
  throw Error(fmt::format("llama-server refused {}{}; its log is {}", path,
                          answer ? fmt::format(" with status {}", answer->status) : "", log_.string()));
}

int LlamaServer::count_tokens(const std::string& text) {
  const auto answer = nlohmann::json::parse(post("/tokenize", nlohmann::json{{"content", text}}.dump()));
  return static_cast<int>(answer.at("tokens").size());
}

std::string LlamaServer::chat(const std::string& message, int max_tokens) {
  const nlohmann::json request = {{"messages", {{{"role", "user"}, {"content", message}}}},
                                  {"temperature", 0},
                                  {"cache_prompt", false},
                                  {"max_tokens", max_tokens}};
  const auto answer = nlohmann::json::parse(post("/v1/chat/completions", request.dump()));
  return answer.at("choices").at(0).at("message").at("content").get<std::string>();
}

}  // namespace gtq::cli
