// The AVX-512 instructions that src/cpu uses, in plain C++, under their own names: the AVX-512 kernel can then
// be tested, slowly, on any x86 machine. To be included after <immintrin.h>, which has the types.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace gtq::test::avx512 {

template <class T>
struct Lanes {
  T x[64 / sizeof(T)];

  static constexpr int size = 64 / sizeof(T);
  Lanes() = default;
  template <class V>
  explicit Lanes(const V& v) {
    static_assert(sizeof(V) == 64);
    std::memcpy(x, &v, 64);
  }
  template <class V>
  V as() const {
    V v;
    std::memcpy(&v, x, 64);
    return v;
  }
};

// out[i] = f(i) for all lanes of T.
template <class T, class V = __m512i, class F>
V each(F f) {
  Lanes<T> out;
  for (int i = 0; i < Lanes<T>::size; ++i) out.x[i] = static_cast<T>(f(i));
  return out.template as<V>();
}

inline __m512i load(const void* p) {
  __m512i v;
  std::memcpy(&v, p, 64);
  return v;
}
inline __m512 load_ps(const void* p) {
  __m512 v;
  std::memcpy(&v, p, 64);
  return v;
}
inline __m512i set1_epi8(char x) {
  return each<std::int8_t>([=](int) { return x; });
}
inline __m512i set1_epi32(int x) {
  return each<std::int32_t>([=](int) { return x; });
}
inline __m512i broadcastd_epi32(__m128i a) {
  int x = 0;
  std::memcpy(&x, &a, sizeof(x));
  return set1_epi32(x);
}
inline __m512 set1_ps(float x) {
  return each<float, __m512>([=](int) { return x; });
}
inline __m512i add_epi32(__m512i a, __m512i b) {
  const Lanes<std::uint32_t> x(a), y(b);
  return each<std::uint32_t>([&](int i) { return x.x[i] + y.x[i]; });
}
inline __m512i srli_epi16(__m512i a, unsigned n) {
  const Lanes<std::uint16_t> x(a);
  return each<std::uint16_t>([&](int i) { return x.x[i] >> n; });
}
inline __m512i slli_epi32(__m512i a, unsigned n) {
  const Lanes<std::uint32_t> x(a);
  return each<std::uint32_t>([&](int i) { return x.x[i] << n; });
}
inline __m512i ternarylogic_epi32(__m512i a, __m512i b, __m512i c, int truth) {
  const Lanes<std::uint8_t> x(a), y(b), z(c);
  return each<std::uint8_t>([&](int i) {
    int out = 0;
    for (int bit = 0; bit < 8; ++bit) {
      const int row = (x.x[i] >> bit & 1) << 2 | (y.x[i] >> bit & 1) << 1 | (z.x[i] >> bit & 1);
      out |= (truth >> row & 1) << bit;
    }
    return out;
  });
}
inline __m512i permutexvar_epi8(__m512i index, __m512i table) {
  const Lanes<std::uint8_t> i8(index), t(table);
  return each<std::uint8_t>([&](int i) { return t.x[i8.x[i] & 63]; });
}
inline __m512i dpbusd_epi32(__m512i sums, __m512i a, __m512i b) {
  const Lanes<std::uint32_t> s(sums);
  const Lanes<std::uint8_t> u(a);
  const Lanes<std::int8_t> v(b);
  return each<std::uint32_t>([&](int i) {
    int dot = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) dot += u.x[j] * v.x[j];
    return s.x[i] + static_cast<std::uint32_t>(dot);
  });
}
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const Lanes<float> x(a), y(b), z(c);
  return each<float, __m512>([&](int i) { return std::fma(x.x[i], y.x[i], z.x[i]); });
}
inline __m512i xor_si512(__m512i a, __m512i b) {
  const Lanes<std::uint32_t> x(a), y(b);
  return each<std::uint32_t>([&](int i) { return x.x[i] ^ y.x[i]; });
}
inline __m128i extracti32x4_epi32(__m512i a, int part) {
  const Lanes<std::int32_t> x(a);
  __m128i v;
  std::memcpy(&v, x.x + 4 * part, 16);
  return v;
}
inline void store(void* p, __m512i a) { std::memcpy(p, &a, 64); }
inline __m512i cvtps_epi32(__m512 a) {
  const Lanes<float> x(a);
  return each<std::int32_t>([&](int i) { return std::nearbyint(x.x[i]); });
}
inline __m512 cvtepi32_ps(__m512i a) {
  const Lanes<std::int32_t> x(a);
  return each<float, __m512>([&](int i) { return static_cast<float>(x.x[i]); });
}
inline __m512i cvtepu8_epi32(__m128i a) {
  std::uint8_t x[16];
  std::memcpy(x, &a, 16);
  return each<std::int32_t>([&](int i) { return x[i]; });
}
inline unsigned test_epi32_mask(__m512i a, __m512i b) {
  const Lanes<std::uint32_t> x(a), y(b);
  unsigned mask = 0;
  for (int i = 0; i < 16; ++i) mask |= ((x.x[i] & y.x[i]) != 0 ? 1u : 0u) << i;
  return mask;
}

}  // namespace gtq::test::avx512

#define _mm512_load_si512 gtq::test::avx512::load
#define _mm512_loadu_si512 gtq::test::avx512::load
#define _mm512_loadu_ps gtq::test::avx512::load_ps
#define _mm512_set1_epi8 gtq::test::avx512::set1_epi8
#define _mm512_set1_epi32 gtq::test::avx512::set1_epi32
#define _mm512_broadcastd_epi32 gtq::test::avx512::broadcastd_epi32
#define _mm512_set1_ps gtq::test::avx512::set1_ps
#define _mm512_setzero_si512() gtq::test::avx512::set1_epi32(0)
#define _mm512_add_epi32 gtq::test::avx512::add_epi32
#undef _mm512_srli_epi16
#define _mm512_srli_epi16 gtq::test::avx512::srli_epi16
#undef _mm512_slli_epi32
#define _mm512_slli_epi32 gtq::test::avx512::slli_epi32
#undef _mm512_ternarylogic_epi32
#define _mm512_ternarylogic_epi32 gtq::test::avx512::ternarylogic_epi32
#define _mm512_permutexvar_epi8 gtq::test::avx512::permutexvar_epi8
#define _mm512_dpbusd_epi32 gtq::test::avx512::dpbusd_epi32
#define _mm512_fmadd_ps gtq::test::avx512::fmadd_ps
#define _mm512_xor_si512 gtq::test::avx512::xor_si512
#undef _mm512_extracti32x4_epi32
#define _mm512_extracti32x4_epi32 gtq::test::avx512::extracti32x4_epi32
#define _mm512_store_si512 gtq::test::avx512::store
#define _mm512_cvtps_epi32 gtq::test::avx512::cvtps_epi32
#define _mm512_cvtepi32_ps gtq::test::avx512::cvtepi32_ps
#define _mm512_cvtepu8_epi32 gtq::test::avx512::cvtepu8_epi32
#define _mm512_test_epi32_mask gtq::test::avx512::test_epi32_mask
