// Files that ship inside the program.
#pragma once

#include <string_view>

namespace gtq::cli {

std::string_view default_text();  // data/calibration.txt
std::string_view inspect_page();  // src/cli/inspect.html

}  // namespace gtq::cli
