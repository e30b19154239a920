// Cosines and sines of a position, the floats that Rope::make_turn gives. Included by encode_avx2.cc.
//
// They are computed in double with an error of a few units of the last place, which rounds to the same float as
// the C library's unless the number lies between two floats almost exactly; those few are left to the library.

using vd = __m256d;
using vq = __attribute__((vector_size(32))) long long;

GTQ_INLINE vd splat_double(double x) { return vd{x, x, x, x}; }

GTQ_INLINE vd multiply_add(vd a, vd b, vd c) { return _mm256_fmadd_pd(a, b, c); }

struct Angles {
  vd reduced;      // within a quarter of a half turn of 0
  vq quadrant;     // low two bits: multiples of pi / 2 taken off
  vd uncertainty;  // of the reduction
};

// |angle| < 2^20, so that multiples of the first two parts of pi / 2, of 31 bits each, are exact.
GTQ_INLINE Angles reduce(vd angle) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  constexpr double kParts[] = {0x1.921fb544p0, 0x1.0b4611a4p-34, 0x1.13198a2e03707p-65};
  const vd shifted = angle * 0x1.45f306dc9c883p-1 + kRound;
  const vd n = shifted - kRound;
  vd reduced = angle;
  for (const double part : kParts) reduced = multiply_add(n, splat_double(-part), reduced);
  return {reduced, reinterpret_cast<vq>(shifted), n != 0.0 ? splat_double(0x1p-50) : vd{}};
}

// Taylor series; what is left out is below 2^-53 of the result for |x| <= pi / 4.
GTQ_INLINE vd sine_series(vd x) {
  const vd z = x * x;
  vd s = splat_double(-1 / 1307674368000.0);
  s = multiply_add(s, z, splat_double(1 / 6227020800.0));
  s = multiply_add(s, z, splat_double(-1 / 39916800.0));
  s = multiply_add(s, z, splat_double(1 / 362880.0));
  s = multiply_add(s, z, splat_double(-1 / 5040.0));
  s = multiply_add(s, z, splat_double(1 / 120.0));
  s = multiply_add(s, z, splat_double(-1 / 6.0));
  return multiply_add(x * z, s, x);
}
GTQ_INLINE vd cosine_series(vd x) {
  const vd z = x * x;
  vd c = splat_double(1 / 20922789888000.0);
  c = multiply_add(c, z, splat_double(-1 / 87178291200.0));
  c = multiply_add(c, z, splat_double(1 / 479001600.0));
  c = multiply_add(c, z, splat_double(-1 / 3628800.0));
  c = multiply_add(c, z, splat_double(1 / 40320.0));
  c = multiply_add(c, z, splat_double(-1 / 720.0));
  c = multiply_add(c, z, splat_double(1 / 24.0));
  c = multiply_add(c, z, splat_double(-0.5));
  return multiply_add(c, z, splat_double(1.0));
}

// Rounds x, which is known to `uncertainty` and 2^-48 of itself; returns lanes that may round either way.
GTQ_INLINE int round_or_doubt(vd x, vd uncertainty, float* out) {
  const vd magnitude = reinterpret_cast<vd>(reinterpret_cast<vq>(x) & INT64_MAX);
  const vd error = magnitude * 0x1p-48 + uncertainty;
  const __m128 low = _mm256_cvtpd_ps(x - error), high = _mm256_cvtpd_ps(x + error);
  store(out, low);
  return _mm_movemask_ps(_mm_cmpneq_ps(low, high));
}

void make_turn(const TurnAngles& angles, std::int64_t position, float* turn) {
  if (!(angles.largest * __builtin_fabs(static_cast<double>(position)) < 0x1p20)) {
    kPlainEncoder.make_turn(angles, position, turn);
    return;
  }
  float* const cosines = turn;
  float* const sines = turn + angles.n_blocks;
  for (int i = 0; i < angles.n_blocks; i += 4) {
    const vd angle = load<vd>(angles.theta + i) * static_cast<double>(position);
    const Angles a = reduce(angle);
    const vd s = sine_series(a.reduced), c = cosine_series(a.reduced);
    const vd odd = reinterpret_cast<vd>(a.quadrant << 63);
    const vq sine_sign = a.quadrant << 62 & INT64_MIN, cosine_sign = (a.quadrant + 1) << 62 & INT64_MIN;
    const vd sine = reinterpret_cast<vd>(reinterpret_cast<vq>(_mm256_blendv_pd(s, c, odd)) ^ sine_sign);
    const vd cosine = reinterpret_cast<vd>(reinterpret_cast<vq>(_mm256_blendv_pd(c, s, odd)) ^ cosine_sign);
    const int doubt =
        round_or_doubt(cosine, a.uncertainty, cosines + i) | round_or_doubt(sine, a.uncertainty, sines + i);
    for (int lane = 0; doubt != 0 && lane < 4; ++lane) {
      cosines[i + lane] = static_cast<float>(__builtin_cos(angle[lane]));
      sines[i + lane] = static_cast<float>(__builtin_sin(angle[lane]));
    }
  }
}
