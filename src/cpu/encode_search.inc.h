// Vectors of 8 floats or 16 integers: Hadamard transform, fixed point, codes at a norm. As codec/fixed_point.h.
// Included by encode_avx2.cc.

// One stage of a Hadamard transform: partners stand in `swapped`, lanes of the second one have the sign bit.
GTQ_INLINE vf butterfly(vf x, vf swapped, vi second) {
  return swapped + reinterpret_cast<vf>(reinterpret_cast<vi>(x) ^ second);
}

// The stages of sizes 1, 2, 4 of 8 numbers: (a, b) -> (a + b, a - b).
GTQ_INLINE vf hadamard_stages_of_8(vf x) {
  constexpr std::int32_t s = INT32_MIN;
  x = butterfly(x, _mm256_permute_ps(x, 0b10'11'00'01), vi{0, s, 0, s, 0, s, 0, s});
  x = butterfly(x, _mm256_permute_ps(x, 0b01'00'11'10), vi{0, 0, s, s, 0, 0, s, s});
  return butterfly(x, _mm256_permute2f128_ps(x, x, 1), vi{0, 0, 0, 0, s, s, s, s});
}

// Orthonormal, in place; n is a power of two, at least 16.
GTQ_INLINE void hadamard(float* x, int n) {
  for (int i = 0; i < n; i += 16) {
    const vf a = hadamard_stages_of_8(load<vf>(x + i)), b = hadamard_stages_of_8(load<vf>(x + i + 8));
    store(x + i, a + b);
    store(x + i + 8, a - b);
  }
  for (int half = 16; half < n; half *= 2) {
    for (int i = 0; i < n; i += 2 * half) {
      for (int j = i; j < i + half; j += 8) {
        const vf a = load<vf>(x + j), b = load<vf>(x + j + half);
        store(x + j, a + b);
        store(x + j + half, a - b);
      }
    }
  }
  const vf scale = splat(1.0f / __builtin_sqrtf(static_cast<float>(n)));
  for (int i = 0; i < n; i += 8) store(x + i, load<vf>(x + i) * scale);
}

GTQ_INLINE vf finite(vf x) {
  constexpr std::int32_t kExponent = 0x7f800000;
  return (reinterpret_cast<vi>(x) & kExponent) != kExponent ? x : vf{};
}

GTQ_INLINE vf limited(vf x) { return max(min(x, splat(kLargestCoded)), splat(-kLargestCoded)); }

GTQ_INLINE float tree_max(vf x) {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
// Sum of the lanes, in pairs.
GTQ_INLINE float tree_sum(vf x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

GTQ_INLINE __m256i load_run(const std::int16_t* f) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(f));
}

// n numbers, a multiple of 16; returns their unit.
GTQ_INLINE float to_fixed_point(const float* y, int n, std::int16_t* f) {
  vf largest{};
  for (int i = 0; i < n; i += 8) {
    largest = max(largest, reinterpret_cast<vf>(reinterpret_cast<vi>(load<vf>(y + i)) & INT32_MAX));
  }
  const float unit = fixed_unit(tree_max(largest)), scale = 1.0f / unit;
  for (int i = 0; i < n; i += 16) {
    const __m256i low = _mm256_cvtps_epi32(load<vf>(y + i) * scale);
    const __m256i high = _mm256_cvtps_epi32(load<vf>(y + i + 8) * scale);
    const __m256i run = _mm256_permute4x64_epi64(_mm256_packs_epi32(low, high), 0b11'01'10'00);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(f + i),
                        _mm256_max_epi16(run, _mm256_set1_epi16(-INT16_MAX)));
  }
  return unit;
}

// Squares of 16 numbers as 4 sums.
GTQ_INLINE __m256i square_sums(__m256i f) {
  const __m256i pairs = _mm256_madd_epi16(f, f);
  return _mm256_add_epi64(_mm256_srli_epi64(pairs, 32),
                          _mm256_blend_epi32(pairs, _mm256_setzero_si256(), 0b10101010));
}
GTQ_INLINE std::uint64_t sum_of_4(__m256i x) {
  const __m128i half = _mm_add_epi64(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  return static_cast<std::uint64_t>(_mm_cvtsi128_si64(half)) +
         static_cast<std::uint64_t>(_mm_extract_epi64(half, 1));
}

// Lane t: sum of the lanes of row t; 0 in other lanes.
GTQ_INLINE __m256i lane_sums(const __m256i (&rows)[kTriedNorms]) {
  static_assert(kTriedNorms == 5);
  const __m256i zero = _mm256_setzero_si256();
  const __m256i first =
      _mm256_hadd_epi32(_mm256_hadd_epi32(rows[0], rows[1]), _mm256_hadd_epi32(rows[2], rows[3]));
  const __m256i last = _mm256_hadd_epi32(_mm256_hadd_epi32(rows[4], zero), zero);
  return _mm256_add_epi32(_mm256_permute2x128_si256(first, last, 0x20),
                          _mm256_permute2x128_si256(first, last, 0x31));
}

// Index of the level of 16 sizes |f| in the low byte of each, bit 7 of the high byte set.
template <int kWidth>
GTQ_INLINE __m256i level_indices(const VectorCodebook& book, __m256i sizes, __m256i multiplier) {
  const __m256i scaled = _mm256_mulhrs_epi16(sizes, multiplier);
  __m256i index = _mm256_set1_epi16(INT16_MIN);
  GTQ_UNROLL
  for (int i = 0; i + 1 < 1 << (kWidth - 1); ++i) {
    index = _mm256_sub_epi16(index, _mm256_cmpgt_epi16(scaled, load_run(book.thresholds[i])));
  }
  return index;
}

// A high byte with bit 7 set looks up 0.
template <int kWidth>
GTQ_INLINE __m256i levels_of(const VectorCodebook& book, __m256i index) {
  const __m256i levels = _mm256_shuffle_epi8(load_run(book.levels[0]), index);
  if constexpr (kWidth < 6) return levels;
  const __m256i upper = _mm256_shuffle_epi8(load_run(book.levels[1]), index);
  return _mm256_blendv_epi8(levels, upper, _mm256_slli_epi16(index, 3));  // bit 4 of the index as sign
}

// CodeSums of 16 numbers at one norm, in 8 lanes.
struct LaneSums {
  __m256i yc, cc;
};
template <int kWidth>
GTQ_INLINE LaneSums sum_run(const VectorCodebook& book, __m256i sizes, __m256i multiplier) {
  const __m256i levels = levels_of<kWidth>(book, level_indices<kWidth>(book, sizes, multiplier));
  return {_mm256_madd_epi16(sizes, levels), _mm256_madd_epi16(levels, levels)};
}

// 16 codes as 2 kWidth bytes.
template <int kWidth>
GTQ_INLINE void put_run(const VectorCodebook& book, const std::int16_t* numbers, int multiplier,
                        std::uint8_t* out) {
  constexpr int kUpper = 1 << (kWidth - 1);
  const __m256i f = load_run(numbers), m = _mm256_set1_epi16(static_cast<std::int16_t>(multiplier));
  const __m256i index = level_indices<kWidth>(book, _mm256_abs_epi16(f), m);
  const __m256i mirrored = _mm256_cmpgt_epi16(_mm256_set1_epi16(1), f);  // -1 where f <= 0
  const __m256i codes =
      _mm256_and_si256(_mm256_xor_si256(_mm256_add_epi16(index, _mm256_set1_epi16(kUpper)), mirrored),
                       _mm256_set1_epi16(2 * kUpper - 1));
  const __m256i pairs = _mm256_madd_epi16(codes, _mm256_set1_epi32(1 | 1 << (16 + kWidth)));
  const __m256i fours = _mm256_or_si256(pairs, _mm256_srli_epi64(pairs, 32 - 2 * kWidth));
  std::uint32_t parts[8];  // every other one counts
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts), fours);
  for (int half = 0; half < 2; ++half) {
    const std::uint64_t bits = parts[4 * half] | std::uint64_t{parts[4 * half + 2]} << (4 * kWidth);
    __builtin_memcpy(out + half * kWidth, &bits, kWidth);
  }
}
