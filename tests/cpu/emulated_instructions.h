// The AVX-512 and AMX instructions that src/cpu uses, in plain C++, under their own names: those kernels can
// then be tested, slowly, on any x86 machine. To be included after <immintrin.h>, which has the types.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
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
inline __m512 max_ps(__m512 a, __m512 b) {
  const Lanes<float> x(a), y(b);
  return each<float, __m512>([&](int i) { return x.x[i] > y.x[i] ? x.x[i] : y.x[i]; });
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
inline __m512i srai_epi32(__m512i a, unsigned n) {
  const Lanes<std::int32_t> x(a);
  return each<std::int32_t>([&](int i) { return x.x[i] >> n; });
}
inline __m128i cvtepi32_epi8(__m512i a) {
  const Lanes<std::int32_t> x(a);
  std::int8_t bytes[16];
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<std::int8_t>(x.x[i]);
  __m128i v;
  std::memcpy(&v, bytes, 16);
  return v;
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

// Tiles of 16 rows of 64 bytes, the only ones that src/cpu makes.
struct Tile {
  std::uint8_t bytes[16][64];
};
inline thread_local Tile tiles[8];

inline void zero_tile(int t) { tiles[t] = {}; }
inline void load_tile(int t, const void* from, std::size_t stride) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(tiles[t].bytes[row], static_cast<const char*>(from) + row * stride, 64);
  }
}
inline void store_tile(int t, void* to, std::size_t stride) {
  for (int row = 0; row < 16; ++row) {
    std::memcpy(static_cast<char*>(to) + row * stride, tiles[t].bytes[row], 64);
  }
}
inline void add_tile_product(int c, int a, int b) {
  for (int row = 0; row < 16; ++row) {
    std::int32_t sums[16];
    std::memcpy(sums, tiles[c].bytes[row], 64);
    for (int column = 0; column < 16; ++column) {
      for (int k = 0; k < 64; ++k) {
        sums[column] += static_cast<std::int8_t>(tiles[a].bytes[row][k]) *
                        static_cast<std::int8_t>(tiles[b].bytes[k / 4][4 * column + k % 4]);
      }
    }
    std::memcpy(tiles[c].bytes[row], sums, 64);
  }
}
// Checks what hardware would refuse.
inline void configure_tiles(const void* shape) {
  std::uint8_t bytes[64];
  std::memcpy(bytes, shape, 64);
  for (int t = 0; t < 8; ++t) {
    if (bytes[0] != 1 || bytes[16 + 2 * t] != 64 || bytes[48 + t] != 16) std::abort();
  }
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
#undef _mm512_srai_epi32
#define _mm512_srai_epi32 gtq::test::avx512::srai_epi32
#define _mm512_cvtepi32_epi8 gtq::test::avx512::cvtepi32_epi8
#define _mm512_store_si512 gtq::test::avx512::store
#define _mm512_cvtps_epi32 gtq::test::avx512::cvtps_epi32
#define _mm512_cvtepi32_ps gtq::test::avx512::cvtepi32_ps
#define _mm512_cvtepu8_epi32 gtq::test::avx512::cvtepu8_epi32
#define _mm512_max_ps gtq::test::avx512::max_ps
#define _mm512_test_epi32_mask gtq::test::avx512::test_epi32_mask

#undef _tile_zero
#define _tile_zero gtq::test::avx512::zero_tile
#undef _tile_loadd
#define _tile_loadd gtq::test::avx512::load_tile
#undef _tile_stored
#define _tile_stored gtq::test::avx512::store_tile
#undef _tile_dpbssd
#define _tile_dpbssd gtq::test::avx512::add_tile_product
#define _tile_loadconfig gtq::test::avx512::configure_tiles
#define _tile_release() static_cast<void>(0)
