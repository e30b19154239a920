// KL divergence between two distributions that are given by their logits.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>

namespace gtq::cli {

// log(sum(exp(x))), in double.
template <typename T>
double log_sum_exp(std::span<const T> x) {
  const double shift = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const T value : x) sum += std::exp(value - shift);
  return shift + std::log(sum);
}

// KL(softmax(base) || softmax(other)). A logit of -inf in both is no outcome; one in each is needed that is
// not.
template <typename T>
double softmax_divergence(std::span<const T> base, std::span<const T> other) {
  const double base_sum = log_sum_exp(base), other_sum = log_sum_exp(other);
  double divergence = 0;
  for (std::size_t i = 0; i < base.size(); ++i) {
    const double log_p = base[i] - base_sum;
    if (std::isinf(log_p)) continue;
    divergence += std::exp(log_p) * (log_p - (other[i] - other_sum));
  }
  return divergence;
}

}  // namespace gtq::cli
