#include "cpu/dispatch.h"

#include <gtest/gtest.h>

#include <string>

#include "gtq/error.h"

namespace gtq::cpu {
namespace {

TEST(Dispatch, FindsEverySupportedKernelByName) {
  EXPECT_EQ(supported_kernels().back().name, "generic");
  for (const Kernel& kernel : supported_kernels()) {
    EXPECT_EQ(choose_kernel(std::string(kernel.name).c_str()).name, kernel.name);
  }
  EXPECT_EQ(choose_kernel(nullptr).name, supported_kernels().front().name);
  EXPECT_EQ(choose_kernel("").name, supported_kernels().front().name);
}

TEST(Dispatch, RefusesOtherNamesAndListsTheChoices) {
  try {
    choose_kernel("mmx");
    FAIL() << "accepted";
  } catch (const Error& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("mmx"), std::string::npos);
    for (const Kernel& kernel : supported_kernels()) EXPECT_NE(what.find(kernel.name), std::string::npos);
  }
}

TEST(Dispatch, MultipliesAboutAsOftenAsAsked) {
  for (const Kernel& kernel : supported_kernels()) {
    for (const int n_pairs : {1, 48}) {
      EXPECT_NEAR(static_cast<double>(kernel.multiply(1 << 20, n_pairs)), 1 << 20, 1 << 10) << kernel.name;
    }
  }
}

}  // namespace
}  // namespace gtq::cpu
