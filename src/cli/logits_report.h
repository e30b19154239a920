// What `gtq eval logits` has measured, layer by layer: a CSV file, and tables that sum it up.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace gtq::cli {

// Errors of one layer with one cache, named as in eval_cache.h.
struct LayerErrors {
  int layer = 0;
  std::string cache;
  double true_bits_k = 0;                                      // per value of the keys
  double true_bits = 0;                                        // of keys and values
  double logit_mae = 0, key_divergence = 0, output_error = 0;  // see AttentionMeter
};

using LayerFigure = double LayerErrors::*;

// One figure of one cache, in the order of the rows.
std::vector<double> figures(const std::vector<LayerErrors>& rows, const std::string& cache, LayerFigure figure);

double geometric_mean(const std::vector<double>& values);

// How one cache's figure compares with another's over the same layers.
struct LayerComparison {
  int n_layers = 0;
  double geometric_mean = 0, least = 0, median = 0, greatest = 0;  // of the ratios
  std::vector<double> ratios;

  int at_most(double ratio) const;  // number of layers
  int below(double ratio) const;
};
LayerComparison compare_layers(const std::vector<double>& of, const std::vector<double>& to);

// Rows of tq-mse, block-gtq and gtq at k2v2, k3v3 and k4v4 must be there.
std::string summary_tables(const std::vector<LayerErrors>& rows);

void write_logits_csv(const std::filesystem::path& path, const std::vector<LayerErrors>& rows);

}  // namespace gtq::cli
