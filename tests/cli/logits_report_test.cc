#include "logits_report.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "gtq/error.h"

namespace gtq::cli {
namespace {

TEST(LogitsReport, GeometricMean) {
  EXPECT_DOUBLE_EQ(geometric_mean({1, 4, 16}), 4);
  EXPECT_DOUBLE_EQ(geometric_mean({3}), 3);
}

TEST(LogitsReport, LayersAreComparedOneByOne) {
  const LayerComparison c = compare_layers({1, 8, 2, 6}, {4, 4, 4, 6});  // 1/4, 2, 1/2, 1
  EXPECT_EQ(c.n_layers, 4);
  EXPECT_DOUBLE_EQ(c.geometric_mean, std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(c.least, 0.25);
  EXPECT_DOUBLE_EQ(c.median, 0.75);
  EXPECT_DOUBLE_EQ(c.greatest, 2);
  EXPECT_EQ(c.below(1), 2);
  EXPECT_EQ(c.at_most(1), 3);
  EXPECT_EQ(c.at_most(0.2), 0);
  EXPECT_DOUBLE_EQ(compare_layers({3, 1, 2}, {1, 1, 1}).median, 2);
  EXPECT_THROW(compare_layers({1}, {1, 2}), Error);
  EXPECT_THROW(compare_layers({}, {}), Error);
}

// Two layers. At each budget tq-mse has MAE 10; block-gtq 5 and 8; gtq 4 and 9.
std::vector<LayerErrors> two_layers() {
  std::vector<LayerErrors> rows;
  for (int layer = 0; layer < 2; ++layer) {
    for (const std::string budget : {"k2v2", "k3v3", "k4v4"}) {
      const double bits = budget[1] - '0';
      rows.push_back({layer, "tq-mse-" + budget, bits + 0.25, bits + 0.25, 10, 1, 1});
      rows.push_back({layer, "block-gtq-" + budget, bits + 1, bits + 0.5, layer == 0 ? 5.0 : 8.0, 0.5, 0.5});
      rows.push_back(
          {layer, budget, bits + 0.125, bits + 0.125, layer == 0 ? 4.0 : 9.0, layer == 0 ? 0.1 : 0.4, 0.25});
    }
  }
  return rows;
}

TEST(LogitsReport, TablesSumUpTheLayers) {
  const std::string text = summary_tables(two_layers());
  for (const char* line : {
           "| tq-mse-k2v2 | 2.250 | 2.250 | 10.0000 | 1.000000 | 1.000000 |",
           "| k4v4 | 4.125 | 4.125 | 6.0000 | 0.200000 | 0.250000 |",
           "| k3v3 | 2 of 2 | 1 of 2 | 20 / 35 / 50 % | 1 of 2 | 2 of 2 |",
           "| k3v3 | 3.125 | block-gtq-k3v3 | 4.000 | 0.400 | 0.800 | 1 of 2 |",
           "| k3v3 | 3.125 | block-gtq-k4v4 | 5.000 | 0.400 | 0.800 | 1 of 2 |",
       }) {
    EXPECT_NE(text.find(line), std::string::npos) << line << " is not in\n" << text;
  }
}

TEST(LogitsReport, CsvHasARowPerLayerAndCache) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("gtq-logits-" + std::to_string(getpid()) + ".csv");
  write_logits_csv(path, {two_layers()[1]});
  std::ifstream file(path);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);
  EXPECT_EQ(text,
            "layer,cache,true_bits_k,true_bits,logit_mae,key_kld,output_error\n"
            "0,block-gtq-k2v2,3.0000,2.5000,5,0.5,0.5\n");
  EXPECT_THROW(write_logits_csv("/nowhere/logits.csv", {}), Error);
}

}  // namespace
}  // namespace gtq::cli
