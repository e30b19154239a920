#include <fmt/format.h>

#include <array>

#include "gtq/allocation.h"
#include "gtq/error.h"

namespace gtq {
namespace {

// 1 - sum p_j c_j^2 of the Lloyd-Max quantizer of a unit Gaussian (Max 1960), widths 1..6; the test recomputes
// it.
constexpr std::array<double, kMaxWidth> kDistortion = {0.36338022763, 0.11748184783, 0.03454776079,
                                                       0.00950100801, 0.00250466836, 0.00064423967};

bool is_width(char c) { return c >= '0' + kMinWidth && c <= '0' + kMaxWidth; }

double true_bits(int head_dim, int bits) {
  constexpr int kNormBits = 8;  // one norm byte per row
  return bits + static_cast<double>(kNormBits) / head_dim;
}

}  // namespace

Budget parse_budget(std::string_view text) {
  if (text.size() != 4 || text[0] != 'k' || !is_width(text[1]) || text[2] != 'v' || !is_width(text[3])) {
    throw Error(fmt::format("a KV budget is written k<1..6>v<1..6>, for example k4v4, and not \"{}\"", text));
  }
  return {text[1] - '0', text[3] - '0'};
}

std::string to_string(const Budget& budget) { return fmt::format("k{}v{}", budget.k_bits, budget.v_bits); }

double gaussian_distortion(int width) {
  if (width < kMinWidth || width > kMaxWidth) {
    throw Error(fmt::format("a width of {} bits is not supported: use {} to {}", width, kMinWidth, kMaxWidth));
  }
  return kDistortion[width - kMinWidth];
}

double true_bits_k(int head_dim, const Budget& budget) { return true_bits(head_dim, budget.k_bits); }
double true_bits_v(int head_dim, const Budget& budget) { return true_bits(head_dim, budget.v_bits); }

}  // namespace gtq
