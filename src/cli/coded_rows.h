// Keys and values of one layer as attention would see them after a recipe has coded them.
#pragma once

#include <vector>

#include "eval_cache.h"
#include "gtq/profile.h"
#include "plugin/recorder_api.h"

namespace gtq::cli {

struct CodedRows {
  std::vector<float> keys, values;          // shapes of RecordedRows
  double true_bits_k = 0, true_bits_v = 0;  // per value, norms included
};

// Recipe gtq, block-gtq or tq-mse. The rows must have the profile's shapes.
CodedRows code_rows(const EvalCache& cache, const LayerProfile& layer, const RecordedRows& rows);

}  // namespace gtq::cli
