#include "find_model.h"

#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <regex>

#include "gtq/error.h"
#include "paths.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

std::string env(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// What the command names. Empty strings: not given. Later arguments win, arguments win over the environment.
struct ModelArgs {
  std::string path = env("LLAMA_ARG_MODEL");
  std::string url = env("LLAMA_ARG_MODEL_URL");
  std::string repo = env("LLAMA_ARG_HF_REPO");
  std::string file = env("LLAMA_ARG_HF_FILE");
  std::string docker = env("LLAMA_ARG_DOCKER_REPO");
  std::string draft = env("LLAMA_ARG_SPEC_DRAFT_MODEL");
  std::string draft_repo = env("LLAMA_ARG_SPEC_DRAFT_HF_REPO");
};

struct ArgName {
  const char* name;
  std::string ModelArgs::*member;
};

constexpr ArgName kArgNames[] = {{"-m", &ModelArgs::path},
                                 {"--model", &ModelArgs::path},
                                 {"-mu", &ModelArgs::url},
                                 {"--model-url", &ModelArgs::url},
                                 {"-hf", &ModelArgs::repo},
                                 {"-hfr", &ModelArgs::repo},
                                 {"--hf-repo", &ModelArgs::repo},
                                 {"-hff", &ModelArgs::file},
                                 {"--hf-file", &ModelArgs::file},
                                 {"-dr", &ModelArgs::docker},
                                 {"--docker-repo", &ModelArgs::docker},
                                 {"-md", &ModelArgs::draft},
                                 {"--model-draft", &ModelArgs::draft},
                                 {"--spec-draft-model", &ModelArgs::draft},
                                 {"-hfd", &ModelArgs::draft_repo},
                                 {"-hfrd", &ModelArgs::draft_repo},
                                 {"--hf-repo-draft", &ModelArgs::draft_repo},
                                 {"--spec-draft-hf", &ModelArgs::draft_repo}};

ModelArgs parse_args(const std::vector<std::string>& command) {
  ModelArgs args;
  for (std::size_t i = 1; i < command.size(); ++i) {
    const std::size_t equals = command[i].starts_with("--") ? command[i].find('=') : std::string::npos;
    std::string name = command[i].substr(0, equals);
    if (name.starts_with("--")) std::replace(name.begin(), name.end(), '_', '-');  // llama.cpp takes both
    const auto* arg = std::find_if(std::begin(kArgNames), std::end(kArgNames),
                                   [&](const ArgName& a) { return name == a.name; });
    if (arg == std::end(kArgNames)) continue;
    if (equals != std::string::npos) {
      args.*(arg->member) = command[i].substr(equals + 1);
    } else if (i + 1 < command.size()) {
      args.*(arg->member) = command[++i];
    }
  }
  return args;
}

// Where llama.cpp keeps files of Hugging Face repositories.
fs::path hub_dir() {
  for (const char* name : {"LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string value = env(name); !value.empty()) return value;
  }
  if (const std::string value = env("HF_HOME"); !value.empty()) return fs::path(value) / "hub";
  if (const std::string value = env("XDG_CACHE_HOME"); !value.empty()) {
    return fs::path(value) / "huggingface" / "hub";
  }
  return fs::path(env("HOME")) / ".cache" / "huggingface" / "hub";
}

// Where llama.cpp keeps files downloaded from a plain address.
fs::path download_dir() {
  if (const std::string value = env("LLAMA_CACHE"); !value.empty()) return value;
  if (const std::string value = env("XDG_CACHE_HOME"); !value.empty()) return fs::path(value) / "llama.cpp";
  return fs::path(env("HOME")) / ".cache" / "llama.cpp";
}

std::string first_line(const fs::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Folder of the commit in use: the one refs/main names, else the first of the others.
fs::path snapshot_dir(const std::string& repo) {
  std::string folder = "models--" + repo;
  for (std::size_t at; (at = folder.find('/')) != std::string::npos;) folder.replace(at, 1, "--");
  const fs::path base = hub_dir() / folder;
  std::string commit = first_line(base / "refs" / "main");
  std::error_code ec;
  for (auto it = fs::directory_iterator(base / "refs", ec);
       !ec && commit.empty() && it != fs::directory_iterator(); it.increment(ec)) {
    if (it->is_regular_file(ec)) commit = first_line(it->path());
  }
  return commit.empty() ? fs::path() : base / "snapshots" / commit;
}

// Ascending paths relative to `dir`, the order in which the hub lists them.
std::vector<std::string> files_below(const fs::path& dir) {
  std::vector<std::string> files;
  std::error_code ec;
  for (auto it = fs::recursive_directory_iterator(dir, ec); !ec && it != fs::recursive_directory_iterator();
       it.increment(ec)) {
    if (it->is_regular_file(ec) || it->is_symlink(ec)) files.push_back(it->path().lexically_relative(dir));
  }
  std::sort(files.begin(), files.end());
  return files;
}

// A whole model and its first part, not a projector, an importance matrix or a draft head.
bool is_first_model_file(const std::string& path) {
  if (!path.ends_with(".gguf")) return false;
  const std::string name = fs::path(path).filename();
  for (const char* other : {"mmproj", "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"}) {
    if (name.find(other) != std::string::npos) return false;
  }
  static const std::regex kPart(".*-([0-9]{5})-of-([0-9]{5})\\.gguf");
  std::smatch m;
  return !std::regex_match(name, m, kPart) || std::stoi(m[1].str()) == 1;
}

// The tag anywhere in the path, in any case, followed by '.' or '-'.
bool has_tag(const std::string& path, const std::string& tag) {
  for (std::size_t i = 0; i + tag.size() < path.size(); ++i) {
    const char next = path[i + tag.size()];
    if ((next == '.' || next == '-') && strncasecmp(path.c_str() + i, tag.c_str(), tag.size()) == 0)
      return true;
  }
  return false;
}

std::string best_file(const std::vector<std::string>& files, const std::string& tag) {
  const std::vector<std::string> tags =
      tag.empty() ? std::vector<std::string>{"Q4_K_M", "Q8_0"} : std::vector<std::string>{tag};
  for (const std::string& wanted : tags) {
    for (const std::string& file : files) {
      if (is_first_model_file(file) && has_tag(file, wanted)) return file;
    }
  }
  if (!tag.empty()) return "";
  const auto any = std::find_if(files.begin(), files.end(), is_first_model_file);
  return any != files.end() ? *any : "";
}

fs::path find_in_hub(const ModelArgs& args, const std::string& program) {
  const std::size_t colon = args.repo.find(':');
  const std::string repo = args.repo.substr(0, colon);
  const std::string tag = colon == std::string::npos ? "" : args.repo.substr(args.repo.rfind(':') + 1);
  const fs::path dir = snapshot_dir(repo);
  if (!dir.empty()) {
    const std::vector<std::string> files = files_below(dir);
    const std::string file = args.file.empty() ? best_file(files, tag) : args.file;
    std::error_code ec;
    if (!file.empty() && fs::exists(dir / file, ec)) return dir / file;
  }
  throw Error(fmt::format("the model {} is not downloaded yet; run {} once without gtq to download it",
                          printable(args.repo), printable(program)));
}

fs::path find_download(const ModelArgs& args, const std::string& program) {
  const std::string name = args.url.substr(0, args.url.find_first_of("#?"));
  const fs::path path =
      args.path.empty() ? download_dir() / name.substr(name.rfind('/') + 1) : fs::path(args.path);
  std::error_code ec;
  if (fs::exists(path, ec)) return path;
  throw Error(fmt::format("the model {} is not downloaded yet; run {} once without gtq to download it",
                          printable(name), printable(program)));
}

}  // namespace

std::optional<fs::path> find_model(const std::vector<std::string>& command) {
  const ModelArgs args = parse_args(command);
  const std::string program = fs::path(command.front()).filename();
  const std::string& named = args.repo.empty() ? args.path : args.repo;
  if (program.starts_with("llama-bench") && named.find(',') != std::string::npos) {
    throw Error("gtq run takes one model at a time; start llama-bench once per model");
  }
  if (!args.repo.empty()) return find_in_hub(args, program);
  if (!args.url.empty()) return find_download(args, program);
  if (!args.docker.empty()) {
    throw Error(fmt::format("gtq does not know where the model {} lies; name its .gguf file with -m",
                            printable(args.docker)));
  }
  if (args.path.empty()) return std::nullopt;
  return args.path;
}

bool has_draft_model(const std::vector<std::string>& command) {
  const ModelArgs args = parse_args(command);
  return !args.draft.empty() || !args.draft_repo.empty();
}

}  // namespace gtq::cli
