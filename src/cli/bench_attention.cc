// gtq bench attention: how fast attention is, beside ggml's own and beside what the machine could do.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "bench/attention_cases.h"
#include "gtq/error.h"
#include "interrupt.h"
#include "llama_session.h"
#include "paths.h"
#include "verbs.h"

namespace gtq::cli {
namespace fs = std::filesystem;
namespace {

using bench::AttentionCases;
using bench::Case;
using bench::Figures;
using bench::Shape;

bench::Setup make_setup(const BenchAttentionOptions& options) {
  bench::Setup setup;
  setup.kernels = options.kernels;
  if (setup.kernels.empty()) setup.kernels.emplace_back(cpu::supported_kernels().front().name);
  for (const std::string& kernel : setup.kernels) cpu::choose_kernel(kernel.c_str());
  for (const std::string& budget : options.budgets) setup.budgets.push_back(parse_budget(budget));
  setup.means.assign(options.means.begin(), options.means.end());
  setup.n_threads = options.n_threads;
  setup.spread_mib = options.spread_mib;
  return setup;
}

std::vector<Shape> make_shapes(const BenchAttentionOptions& options) {
  std::vector<Shape> shapes;
  for (const int n_rows : options.rows) {
    for (const int head_dim : options.head_dims) {
      for (const int group : options.groups) {
        for (const int kv_len : options.lengths) {
          if (n_rows > kv_len) throw Error(fmt::format("{} query rows do not fit {} cells", n_rows, kv_len));
          shapes.push_back({head_dim, group, n_rows, kv_len});
        }
      }
    }
  }
  return shapes;
}

// A column of the table: nothing where there is nothing to tell.
std::string column(double number, int digits) {
  return number > 0 ? fmt::format(" {:.{}f} |", number, digits) : " |";
}

void print_row(const AttentionCases& cases, const Case& one) {
  const Figures f = cases.figures(one, is_floor(one) ? bench::least : bench::median);
  std::string row = fmt::format("| {}{} |", is_floor(one) ? "floor: " : "", one.name);
  row += column(f.ns, 3) + column(cases.figures(one, bench::least).ns, 3);
  for (const double ratio : f.ratio) row += column(ratio, 2);
  row += column(f.bytes_per_cell, 1);
  row += column(f.bytes_per_second * 1e-9, 2) + column(f.multiply_adds_per_second * 1e-9, 2);
  row += column(100 * f.read_share, 1) + column(100 * f.multiply_share, 1);
  fmt::print("{}\n", row);
}

void print_table(const Shape& shape, const AttentionCases& cases) {
  fmt::print(
      "\nhead_dim {}, {} query heads per KV head, {} query rows, {} cells; {} multiply-adds per cell and "
      "head\n\n"
      "| cache | ns | least | over f16 | over q8_0 | over q4_0 | B/cell | GB/s | GMAC/s | of reading, % | "
      "of multiply-adds, % |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
      shape.head_dim, shape.group, shape.n_rows, shape.kv_len, shape.multiply_adds());
  for (const Case& one : cases.cases()) print_row(cases, one);
  std::fflush(stdout);
}

nlohmann::json to_json(const AttentionCases& cases, const Case& one) {
  const Figures f = cases.figures(one, is_floor(one) ? bench::least : bench::median);
  nlohmann::json json = {{"name", one.name}};
  for_each(f, [&json](const char* name, double number) { json[name] = number; });
  if (const double ns = cases.figures(one, bench::least).ns; ns > 0) json["ns_least"] = ns;
  return json;
}

nlohmann::json to_json(const Shape& shape, const AttentionCases& cases) {
  nlohmann::json json = {{"head_dim", shape.head_dim},
                         {"group", shape.group},
                         {"rows", shape.n_rows},
                         {"cells", shape.kv_len},
                         {"multiply_adds", shape.multiply_adds()}};
  for (const Case& one : cases.cases()) {
    json[is_floor(one) ? "floors" : "caches"].push_back(to_json(cases, one));
  }
  return json;
}

void write_json(const std::string& path, const nlohmann::json& json) {
  std::ofstream out(path);
  out << json.dump(1) << '\n';
  out.close();
  if (!out) throw Error(fmt::format("cannot write {}; is the disk full?", printable(path)));
}

}  // namespace

int bench_attention(const BenchAttentionOptions& options) {
  const InterruptGuard guard("interrupted");
  const bench::Setup setup = make_setup(options);
  const std::vector<Shape> shapes = make_shapes(options);
  if (!options.output.empty()) check_output_file(options.output);
  std::optional<bench::Peer> peer;
  if (options.peer != "none")
    peer.emplace(options.peer.empty() ? ggml_dir() : fs::path(options.peer), setup.n_threads);

  fmt::print(
      "{} threads. ns per cell attended and query head: median and least of {} rounds. over: time of ggml's "
      "cache "
      "over this one's.\nof: share of what reading memory and the kernel's multiply-adds alone reached in "
      "their fastest round.\n",
      setup.n_threads, options.n_rounds);
  nlohmann::json json = {{"gtq", GTQ_VERSION}, {"threads", setup.n_threads}, {"rounds", options.n_rounds}};
  for (const Shape& shape : shapes) {
    AttentionCases cases(setup, shape, peer ? &*peer : nullptr);
    for (int round = 0; round < options.n_rounds; ++round) cases.run_round();
    print_table(shape, cases);
    json["shapes"].push_back(to_json(shape, cases));
  }
  if (!options.output.empty()) write_json(options.output, json);
  return kExitOk;
}

}  // namespace gtq::cli
