# GoogleTest from the sources that libgtest-dev brings along.
set(gtest_source /usr/src/googletest/googletest)
add_library(gtest_main STATIC ${gtest_source}/src/gtest-all.cc ${gtest_source}/src/gtest_main.cc)
target_include_directories(gtest_main SYSTEM PUBLIC ${gtest_source}/include PRIVATE ${gtest_source})
target_compile_options(gtest_main PRIVATE -w -O0)
add_library(GTest::gtest_main ALIAS gtest_main)
set(GTest_FOUND TRUE)
