#include "logits_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "gtq/error.h"

namespace gtq::cli {
namespace {

constexpr double kPaperReduction = 0.32;  // the least that arXiv 2606.24033 reports of its layers

constexpr const char* kBudgets[] = {"k2v2", "k3v3", "k4v4"};

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

std::string of_layers(int n, const LayerComparison& comparison) {
  return fmt::format("{} of {}", n, comparison.n_layers);
}

std::string error_table(const std::vector<LayerErrors>& rows) {
  std::string text =
      "| cache | true bits of keys | of keys and values | logit MAE | attention KL | output error |\n"
      "| --- | --- | --- | --- | --- | --- |\n";
  for (const std::string budget : kBudgets) {
    for (const std::string& cache : {"tq-mse-" + budget, "block-gtq-" + budget, budget}) {
      const auto column = [&](LayerFigure figure) { return figures(rows, cache, figure); };
      text += fmt::format("| {} | {:.3f} | {:.3f} | {:.4f} | {:.6f} | {:.6f} |\n", cache,
                          mean(column(&LayerErrors::true_bits_k)), mean(column(&LayerErrors::true_bits)),
                          geometric_mean(column(&LayerErrors::logit_mae)),
                          geometric_mean(column(&LayerErrors::key_divergence)),
                          geometric_mean(column(&LayerErrors::output_error)));
    }
  }
  return text;
}

std::string nominal_table(const std::vector<LayerErrors>& rows) {
  std::string text = fmt::format(
      "| budget | block-gtq's MAE below tq-mse's | by {:.0f} % or more | least / median / largest reduction | "
      "gtq's MAE below block-gtq's | gtq's KL below block-gtq's |\n| --- | --- | --- | --- | --- | --- |\n",
      100 * kPaperReduction);
  for (const std::string budget : kBudgets) {
    const auto compare = [&](const std::string& of, const std::string& to, LayerFigure figure) {
      return compare_layers(figures(rows, of, figure), figures(rows, to, figure));
    };
    const auto paper = compare("block-gtq-" + budget, "tq-mse-" + budget, &LayerErrors::logit_mae);
    const auto mae = compare(budget, "block-gtq-" + budget, &LayerErrors::logit_mae);
    const auto divergence = compare(budget, "block-gtq-" + budget, &LayerErrors::key_divergence);
    text += fmt::format("| {} | {} | {} | {:.0f} / {:.0f} / {:.0f} % | {} | {} |\n", budget,
                        of_layers(paper.below(1), paper), of_layers(paper.at_most(1 - kPaperReduction), paper),
                        100 * (1 - paper.greatest), 100 * (1 - paper.median), 100 * (1 - paper.least),
                        of_layers(mae.below(1), mae), of_layers(divergence.below(1), divergence));
  }
  return text;
}

std::string ratio_table(const std::vector<LayerErrors>& rows) {
  std::string text =
      "| gtq | true bits of keys | against | true bits of keys | KL ratio, geometric mean | worst layer | half "
      "or less |\n| --- | --- | --- | --- | --- | --- | --- |\n";
  const std::string own = "k3v3";
  for (const std::string other : {"block-gtq-k3v3", "block-gtq-k4v4"}) {
    const LayerComparison ratio = compare_layers(figures(rows, own, &LayerErrors::key_divergence),
                                                 figures(rows, other, &LayerErrors::key_divergence));
    text += fmt::format("| {} | {:.3f} | {} | {:.3f} | {:.3f} | {:.3f} | {} |\n", own,
                        mean(figures(rows, own, &LayerErrors::true_bits_k)), other,
                        mean(figures(rows, other, &LayerErrors::true_bits_k)), ratio.geometric_mean,
                        ratio.greatest, of_layers(ratio.at_most(0.5), ratio));
  }
  return text;
}

}  // namespace

std::vector<double> figures(const std::vector<LayerErrors>& rows, const std::string& cache,
                            LayerFigure figure) {
  std::vector<double> values;
  for (const LayerErrors& row : rows) {
    if (row.cache == cache) values.push_back(row.*figure);
  }
  return values;
}

double geometric_mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

int LayerComparison::at_most(double ratio) const {
  return static_cast<int>(std::count_if(ratios.begin(), ratios.end(), [=](double r) { return r <= ratio; }));
}

int LayerComparison::below(double ratio) const {
  return static_cast<int>(std::count_if(ratios.begin(), ratios.end(), [=](double r) { return r < ratio; }));
}

LayerComparison compare_layers(const std::vector<double>& of, const std::vector<double>& to) {
  if (of.empty() || of.size() != to.size()) throw Error("two caches were not measured on the same layers");
  LayerComparison result;
  result.n_layers = static_cast<int>(of.size());
  for (std::size_t i = 0; i < of.size(); ++i) result.ratios.push_back(of[i] / to[i]);
  std::vector<double> sorted = result.ratios;
  std::sort(sorted.begin(), sorted.end());
  result.geometric_mean = geometric_mean(sorted);
  result.least = sorted.front();
  result.greatest = sorted.back();
  const std::size_t half = sorted.size() / 2;
  result.median = sorted.size() % 2 != 0 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return result;
}

std::string summary_tables(const std::vector<LayerErrors>& rows) {
  return "Geometric means over the layers:\n\n" + error_table(rows) + "\nLayers, at equal nominal bits:\n\n" +
         nominal_table(rows) + "\nAttention KL of gtq against block-gtq at more bits:\n\n" + ratio_table(rows);
}

void write_logits_csv(const std::filesystem::path& path, const std::vector<LayerErrors>& rows) {
  std::ofstream out(path);
  out << "layer,cache,true_bits_k,true_bits,logit_mae,key_kld,output_error\n";
  for (const LayerErrors& r : rows) {
    out << fmt::format("{},{},{:.4f},{:.4f},{:.6g},{:.6g},{:.6g}\n", r.layer, r.cache, r.true_bits_k,
                       r.true_bits, r.logit_mae, r.key_divergence, r.output_error);
  }
  out.close();
  if (!out) throw Error(fmt::format("cannot write {}; is the disk full?", path.string()));
}

}  // namespace gtq::cli
