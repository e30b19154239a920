// Vectors of 8 numbers: nearest codes, Hadamard transform, bits of codes. Included by encode_avx2.cc.

// Table of kCount floats (room for 8), one index per lane.
template <int kCount>
GTQ_INLINE vf pick(const float* table, vi index) {
  if constexpr (kCount == 1) {
    return splat(table[0]);
  } else if constexpr (kCount <= 4) {
    const vf twice = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(table));
    return _mm256_permutevar_ps(twice, reinterpret_cast<__m256i>(index));  // low 2 bits only
  } else if constexpr (kCount == 8) {
    return _mm256_permutevar8x32_ps(load<vf>(table), reinterpret_cast<__m256i>(index));  // low 3 bits only
  } else {
    const vf low = pick<kCount / 2>(table, index), high = pick<kCount / 2>(table + kCount / 2, index);
    const vi half = index << (32 - __builtin_ctz(kCount));  // its bit of the index is the sign
    return _mm256_blendv_ps(low, high, reinterpret_cast<__m256>(half));
  }
}

// Number of thresholds below x; 0 for NaN.
template <int kWidth, int kLevel = 0>
GTQ_INLINE vi nearest_codes(const CodeTree& tree, vf x, vi code = vi{}) {
  if constexpr (kLevel == kWidth) {
    return code;
  } else {
    const vi above = x > pick<(1 << kLevel)>(tree.thresholds[kLevel], code);  // -1 where it is
    return nearest_codes<kWidth, kLevel + 1>(tree, x, code + code - above);
  }
}

// Codes of x; lanes of `differ` become nonzero where those of `other` are different ones.
template <int kWidth, int kLevel = 0>
GTQ_INLINE vi nearest_codes_of_both(const CodeTree& tree, vf x, vf other, vi* differ, vi code = vi{}) {
  if constexpr (kLevel == kWidth) {
    return code;
  } else {
    const vf threshold = pick<(1 << kLevel)>(tree.thresholds[kLevel], code);
    const vi above = x > threshold;
    *differ |= above ^ (other > threshold);
    return nearest_codes_of_both<kWidth, kLevel + 1>(tree, x, other, differ, code + code - above);
  }
}

template <int kWidth>
GTQ_INLINE vf centroids_of(const CodeTree& tree, vi code) {
  return pick<(1 << kWidth)>(tree.centroids, code);
}

// Nearest positive centroid to a positive number, by the upper halves of all levels.
template <int kWidth, int kLevel = 1>
GTQ_INLINE vf nearest_size(const CodeTree& tree, vf x, vi code = vi{}) {
  if constexpr (kLevel == kWidth) {
    return pick<(1 << (kWidth - 1))>(tree.centroids + (1 << (kWidth - 1)), code);
  } else {
    constexpr int kHalf = 1 << (kLevel - 1);
    const vi above = x > pick<kHalf>(tree.thresholds[kLevel] + kHalf, code);  // -1 where it is
    return nearest_size<kWidth, kLevel + 1>(tree, x, code + code - above);
  }
}

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

// 8 codes as kWidth bytes.
template <int kWidth>
GTQ_INLINE void put_codes(vi codes, std::uint8_t* out) {
  constexpr int w = kWidth;
  const __m256i in_place = _mm256_sllv_epi32(
      reinterpret_cast<__m256i>(codes), reinterpret_cast<__m256i>(vi{0, w, 2 * w, 3 * w, 0, w, 2 * w, 3 * w}));
  const __m256i pairs = _mm256_or_si256(in_place, _mm256_shuffle_epi32(in_place, 0b10'11'00'01));
  const __m256i fours = _mm256_or_si256(pairs, _mm256_shuffle_epi32(pairs, 0b01'00'11'10));
  const auto low = static_cast<std::uint32_t>(_mm256_cvtsi256_si32(fours));
  const auto high = static_cast<std::uint32_t>(_mm256_extract_epi32(fours, 4));
  const std::uint64_t bits = low | std::uint64_t{high} << (4 * w);
  __builtin_memcpy(out, &bits, kWidth);
}

// Codes of n values y * inverse, n a multiple of 8.
template <int kWidth>
GTQ_INLINE void put_nearest(const CodeTree& tree, const float* y, int n, float inverse, std::uint8_t* out) {
  for (int i = 0; i < n; i += 8, out += kWidth) {
    put_codes<kWidth>(nearest_codes<kWidth>(tree, load<vf>(y + i) * inverse), out);
  }
}

GTQ_INLINE vf finite(vf x) {
  constexpr std::int32_t kExponent = 0x7f800000;
  return (reinterpret_cast<vi>(x) & kExponent) != kExponent ? x : vf{};
}

// Sum of the lanes, in pairs.
GTQ_INLINE float tree_sum(vf x) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
