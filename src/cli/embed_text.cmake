# cmake -DINPUT=text -DOUTPUT=source.cc -P embed_text.cmake: a C++ source that defines default_text().
# Bytes instead of a string literal: compilers limit the length of those, and no escaping can go wrong.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUTPUT} "// Made from data/calibration.txt by embed_text.cmake.
#include \"default_text.h\"

namespace gtq::cli {
namespace {
constexpr unsigned char kBytes[] = {
${bytes}
};
}  // namespace

std::string_view default_text() { return {reinterpret_cast<const char*>(kBytes), sizeof kBytes}; }

}  // namespace gtq::cli
")
