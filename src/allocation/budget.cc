#include <fmt/format.h>

#include <array>
#include <cmath>

#include "gtq/allocation.h"
#include "gtq/error.h"

namespace gtq {
namespace {

// 1 - sum p_j c_j^2 of the Lloyd-Max quantizer of a unit Gaussian (Max 1960), widths 1..6; the test recomputes
// it.
constexpr std::array<double, kMaxWidth> kDistortion = {0.36338022763, 0.11748184783, 0.03454776079,
                                                       0.00950100801, 0.00250466836, 0.00064423967};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes a number such as 3, 3.5 or 3.25 from the front of the text; 0 when there is none in range.
double take_bits(std::string_view& text) {
  if (text.empty() || !is_digit(text[0])) return 0;
  int sum = 100 * (text[0] - '0');
  text.remove_prefix(1);
  if (text.size() >= 2 && text[0] == '.' && is_digit(text[1])) {
    sum += 10 * (text[1] - '0');
    text.remove_prefix(2);
    if (!text.empty() && is_digit(text[0])) {
      sum += text[0] - '0';
      text.remove_prefix(1);
    }
  }
  return sum < 100 * kMinWidth || sum > 100 * kMaxWidth ? 0 : sum / 100.0;
}

bool take(std::string_view& text, char c) {
  if (text.empty() || text[0] != c) return false;
  text.remove_prefix(1);
  return true;
}

// Both numbers are 0 when there is no budget at the front of the text.
Budget take_budget(std::string_view& text) {
  Budget budget{0, 0};
  if (take(text, 'k')) budget.k_bits = take_bits(text);
  if (budget.k_bits > 0 && take(text, 'v')) budget.v_bits = take_bits(text);
  return budget.v_bits > 0 ? budget : Budget{0, 0};
}

// "r64", "r128", ...; 0 when it is none of them.
int parse_recent(std::string_view text) {
  constexpr int kStep = 64;  // tokens of a page
  if (!take(text, 'r') || text.empty() || text[0] == '0') return 0;
  int n = 0;
  for (const char c : text) {
    if (!is_digit(c) || n > kMostRecent) return 0;
    n = 10 * n + (c - '0');
  }
  return n % kStep == 0 && n <= kMostRecent ? n : 0;
}

double true_bits(int head_dim, double bits) {
  constexpr int kNormBits = 8;  // one norm byte per row
  return bits + static_cast<double>(kNormBits) / head_dim;
}

}  // namespace

Budget parse_budget(std::string_view text) {
  std::string_view rest = text;
  const Budget budget = take_budget(rest);
  if (budget.k_bits == 0 || !rest.empty()) {
    throw Error(fmt::format(
        "a KV budget is written k<1..6>v<1..6>, for example k4v4 or k3.5v3.25, and not \"{}\"", text));
  }
  return budget;
}

std::string to_string(const Budget& budget) { return fmt::format("k{:g}v{:g}", budget.k_bits, budget.v_bits); }

CacheBudget parse_cache_budget(std::string_view text) {
  std::string_view rest = text;
  const CacheBudget budget{take_budget(rest), parse_recent(rest)};
  if (budget.tokens.k_bits == 0 || (!rest.empty() && budget.recent == 0)) {
    throw Error(
        fmt::format("a KV budget is written k<1..6>v<1..6>, for example k4v4 or k3.5v3.25, or k3v3r128 with "
                    "the first 64 and "
                    "the last 64, 128, ... {} tokens in {}, and not \"{}\"",
                    kMostRecent, to_string(kRecentBudget), text));
  }
  return budget;
}

std::string to_string(const CacheBudget& budget) {
  return to_string(budget.tokens) + (budget.recent > 0 ? fmt::format("r{}", budget.recent) : "");
}

int hundredths(double bits) { return static_cast<int>(std::lround(100 * bits)); }

double gaussian_distortion(int width) {
  if (width < kMinWidth || width > kMaxWidth) {
    throw Error(fmt::format("a width of {} bits is not supported: use {} to {}", width, kMinWidth, kMaxWidth));
  }
  return kDistortion[width - kMinWidth];
}

double true_bits_k(int head_dim, const Budget& budget) { return true_bits(head_dim, budget.k_bits); }
double true_bits_v(int head_dim, const Budget& budget) { return true_bits(head_dim, budget.v_bits); }

}  // namespace gtq
