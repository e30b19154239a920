// The calibration text that ships inside the program (data/calibration.txt).
#pragma once

#include <string_view>

namespace gtq::cli {

std::string_view default_text();

}  // namespace gtq::cli
