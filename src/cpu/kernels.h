// Page kernels by name; dispatch.cc chooses among those that were compiled and that the machine can run.
#pragma once

#include "cpu/kernel_api.h"

namespace gtq::cpu {

void attend_pages_generic(const PageJob& job);
void attend_pages_avx2(const PageJob& job);
void attend_pages_avx512(const PageJob& job);
void attend_pages_amx(const PageJob& job);
void attend_pages_neon(const PageJob& job);

void finish_pair_generic(const OutputJob& job);
void finish_pair_avx2(const OutputJob& job);
void finish_pair_avx512(const OutputJob& job);
void finish_pair_amx(const OutputJob& job);
void finish_pair_neon(const OutputJob& job);

std::int64_t multiply_generic(std::int64_t n, int n_pairs);
std::int64_t multiply_avx2(std::int64_t n, int n_pairs);
std::int64_t multiply_avx512(std::int64_t n, int n_pairs);
std::int64_t multiply_amx(std::int64_t n, int n_pairs);
std::int64_t multiply_neon(std::int64_t n, int n_pairs);

}  // namespace gtq::cpu
