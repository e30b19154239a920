# cmake -DINPUT=file -DNAME=function -DOUTPUT=source.cc -P embed_text.cmake: defines a function of embedded.h.
# Bytes instead of a string literal: compilers limit the length of those, and no escaping can go wrong.
file(READ ${INPUT} hex HEX)
string(REGEX REPLACE "(................................)" "\\1\n" hex "${hex}")
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
file(WRITE ${OUTPUT} "// Made from ${INPUT} by embed_text.cmake.
#include \"embedded.h\"

namespace gtq::cli {
namespace {
constexpr unsigned char kBytes[] = {
${bytes}
};
}  // namespace

std::string_view ${NAME}() { return {reinterpret_cast<const char*>(kBytes), sizeof kBytes}; }

}  // namespace gtq::cli
")
