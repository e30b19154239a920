// Key rows, 8 slots at a time. The format asks for sums in order; where a sum only decides something, it is
// taken in another order first, and in order when the decision is closer than the errors of both. Included by
// encode_avx2.cc.

// Sums over slots, lane t for norm t that is tried: y c, c c. One more lane has y for c, so yc is y y there. In
// order, sums are made in these lanes.
struct Fit {
  vf yc, cc;
};
constexpr int kEnergyLane = kTriedNorms;

// Two vectors of doubles.
struct Doubles {
  __m256d low, high;
};
GTQ_INLINE Doubles to_doubles(vf x) {
  return {_mm256_cvtps_pd(_mm256_castps256_ps128(x)), _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1))};
}
GTQ_INLINE double lane_sum(__m256d x) { return x[0] + x[1] + (x[2] + x[3]); }

// A mean key at the position of a turn, as Rope::apply_turn. Plain loops: the compiler makes vectors of them.
GTQ_INLINE void turn_mean(const KeyEncoding& e, const float* __restrict turn, const float* __restrict mean,
                          float* __restrict out) {
  const int n_blocks = e.head_dim / 2, n_neox = e.n_neox;
  const float* __restrict const sines = turn + n_blocks;
  for (int i = 0; i < n_neox; ++i) {
    const float x = mean[i], y = mean[i + n_neox];
    out[i] = x * turn[i] - y * sines[i];
    out[i + n_neox] = x * sines[i] + y * turn[i];
  }
  for (int i = n_neox; i < n_blocks; ++i) {
    const float x = mean[2 * i], y = mean[2 * i + 1];
    out[2 * i] = x * turn[i] - y * sines[i];
    out[2 * i + 1] = x * sines[i] + y * turn[i];
  }
}

// Residuals to a mean, and their weighted square in no order.
GTQ_INLINE double subtract_mean(const KeyEncoding& e, const float* key, const float* mean, float* residual) {
  __m256d low{}, high{};
  for (int i = 0; i < e.head_dim; i += 8) {
    const vf x = load<vf>(key + i) - load<vf>(mean + i);
    store(residual + i, x);
    const Doubles wide = to_doubles(x);
    low += load<__m256d>(e.weight + i) * wide.low * wide.low;
    high += load<__m256d>(e.weight + i + 4) * wide.high * wide.high;
  }
  return lane_sum(low + high);
}

// Residual to the nearer mean; returns its index. The distances here differ from those of the format by less
// than 2^-20: residuals are rounded to float, and sums of positive numbers have small relative errors.
GTQ_INLINE int subtract_nearer_mean(const KeyEncoding& e, const float* key, const float* turn,
                                    float* residuals) {
  const int d = e.head_dim;
  float means[2 * kMaxDims];
  turn_mean(e, turn, e.mean_keys + d, means + d);
  const double second = subtract_mean(e, key, means + d, residuals + d);
  if (e.one_mean) return 1;
  turn_mean(e, turn, e.mean_keys, means);
  const double first = subtract_mean(e, key, means, residuals);
  constexpr double kMargin = 0x1p-20;
  if (first < second - kMargin * (first + second)) return 0;
  if (second < first - kMargin * (first + second)) return 1;
  return nearer_mean(e, key, means);
}

// Weighted square of the scaled residual y, which is rotated then.
GTQ_INLINE float rotate_groups(const KeyEncoding& e, float* y) {
  float square[kMaxDims];
  for (int i = 0; i < e.head_dim; i += 8) store(square + i, load<vf>(y + i) * load<vf>(y + i));
  float sum = 0;
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    float group_sum = 0;
    GTQ_UNROLL
    for (int j = 0; j < kGroup; ++j) group_sum += square[g * kGroup + j];
    sum += e.group_weight[g] * group_sum;
    hadamard(y + g * kGroup, kGroup);
  }
  return sum;
}

// Column i of 8 rows becomes row i.
GTQ_INLINE void transpose(vf (&rows)[8]) {
  vf pairs[8], fours[8];
  for (int i = 0; i < 8; i += 2) {
    pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int k = 0; k < 2; ++k) {
      fours[i + 2 * k] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0b01'00'01'00);
      fours[i + 2 * k + 1] = _mm256_shuffle_ps(pairs[i + k], pairs[i + k + 2], 0b11'10'11'10);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
  }
}

template <int kWidth>
Fit fit_group(const CodeTree& tree, const float* y, const float* inverses) {
  Fit fit{};
  for (int half = 0; half < kGroup; half += 8) {
    const vf at = load<vf>(y + half);
    vf centroids[8] = {at, at, at, at, at, at, at, at};
    GTQ_UNROLL
    for (int t = 0; t < kTriedNorms; ++t) {
      centroids[t] = centroids_of<kWidth>(tree, nearest_codes<kWidth>(tree, at * inverses[t]));
    }
    transpose(centroids);
    GTQ_UNROLL
    for (int j = 0; j < 8; ++j) {
      fit.yc += y[half + j] * centroids[j];
      fit.cc += centroids[j] * centroids[j];
    }
  }
  return fit;
}

using FitGroup = Fit (*)(const CodeTree&, const float*, const float*);
constexpr FitGroup kFitGroup[] = {nullptr,      fit_group<1>, fit_group<2>, fit_group<3>,
                                  fit_group<4>, fit_group<5>, fit_group<6>};

Fit fit_in_order(const KeyEncoding& e, const float* y, const float* inverses) {
  Fit fit{};
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    const Fit group = kFitGroup[e.widths[g]](code_trees()[e.widths[g]], y + g * kGroup, inverses);
    fit.yc += e.group_weight[g] * group.yc;
    fit.cc += e.group_weight[g] * group.cc;
  }
  return fit;
}

// The same sums in any order: lanes stand for slots, and are summed in the end.
struct LooseFit {
  vf yc[kTriedNorms], cc[kTriedNorms], yy;
  vf largest;  // |y|
};

GTQ_INLINE vf multiply_add(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

// Codebooks are symmetric, so signs are left out: y c is |y| |c|. A negative number on a threshold belongs to
// the outer code, a positive one to the inner; so thresholds are compared with the next number above |y|.
template <int kWidth>
void add_loose_fit(const CodeTree& tree, const float* y, const float* inverses, float weight, LooseFit* sums) {
  vf yc[kTriedNorms] = {}, cc[kTriedNorms] = {}, yy{};
  GTQ_UNROLL
  for (int half = 0; half < kGroup; half += 8) {
    const vf x = load<vf>(y + half);
    const vf size = reinterpret_cast<vf>(reinterpret_cast<vi>(x) & INT32_MAX);
    const vi one_if_positive = -(x > 0.0f);
    yy = multiply_add(size, size, yy);
    sums->largest = max(sums->largest, size);
    GTQ_UNROLL
    for (int t = 0; t < kTriedNorms; ++t) {
      const vi above = reinterpret_cast<vi>(size * inverses[t]) + 1 - one_if_positive;
      const vf c = nearest_size<kWidth>(tree, reinterpret_cast<vf>(above));
      yc[t] = multiply_add(size, c, yc[t]);
      cc[t] = multiply_add(c, c, cc[t]);
    }
  }
  const vf w = splat(weight);
  GTQ_UNROLL
  for (int t = 0; t < kTriedNorms; ++t) {
    sums->yc[t] = multiply_add(w, yc[t], sums->yc[t]);
    sums->cc[t] = multiply_add(w, cc[t], sums->cc[t]);
  }
  sums->yy = multiply_add(w, yy, sums->yy);
}

using AddLooseFit = void (*)(const CodeTree&, const float*, const float*, float, LooseFit*);
constexpr AddLooseFit kAddLooseFit[] = {nullptr,          add_loose_fit<1>, add_loose_fit<2>, add_loose_fit<3>,
                                        add_loose_fit<4>, add_loose_fit<5>, add_loose_fit<6>};

// Lane i: sum of the lanes of row i.
GTQ_INLINE vf lane_sums(vf (&rows)[8]) {
  transpose(rows);
  return (rows[0] + rows[1] + (rows[2] + rows[3])) + (rows[4] + rows[5] + (rows[6] + rows[7]));
}

// Returns false where numbers are too large or too small for errors to be relative.
bool fit_loosely(const KeyEncoding& e, const float* y, const float* inverses, Fit* fit) {
  const CodeTree* trees = code_trees();
  LooseFit sums{};
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    const int width = e.widths[g];
    kAddLooseFit[width](trees[width], y + g * kGroup, inverses, e.group_weight[g], &sums);
  }
  static_assert(kTriedNorms == 5);
  vf yc[8] = {sums.yc[0], sums.yc[1], sums.yc[2], sums.yc[3], sums.yc[4], sums.yy};
  vf cc[8] = {sums.cc[0], sums.cc[1], sums.cc[2], sums.cc[3], sums.cc[4]};
  *fit = {lane_sums(yc), lane_sums(cc)};
  return fit->yc[kEnergyLane] > 0x1p-60f && lane_max(sums.largest) < 0x1p50f;
}

GTQ_INLINE NormFit norm_fit(const Fit& fit) {
  NormFit sums;
  for (int t = 0; t < kTriedNorms; ++t) {
    sums.yc[t] = fit.yc[t];
    sums.cc[t] = fit.cc[t];
  }
  sums.yy = fit.yc[kEnergyLane];
  return sums;
}

// The sums of the format round n_groups + 17 times, loose ones n_groups + 10 times, each time by up to 2^-24 of
// a sum of numbers that are not negative.
NormChoice choose(const KeyEncoding& e, const float* y, const float* inverses) {
  const float error = 0x1p-24f * static_cast<float>(2 * (e.head_dim / kGroup) + 28);
  Fit fit;
  NormChoice best;
  if (fit_loosely(e, y, inverses, &fit) && choose_norm_surely(norm_fit(fit), error, &best)) return best;
  return choose_norm(norm_fit(fit_in_order(e, y, inverses)));
}

template <int kWidth>
void put_group(const CodeTree& tree, const float* y, float inverse, std::uint8_t* out) {
  put_nearest<kWidth>(tree, y, kGroup, inverse, out);
}
using PutGroup = void (*)(const CodeTree&, const float*, float, std::uint8_t*);
constexpr PutGroup kPutGroup[] = {nullptr,      put_group<1>, put_group<2>, put_group<3>,
                                  put_group<4>, put_group<5>, put_group<6>};

void encode_key(const KeyEncoding& e, const float* key, const float* turn, std::uint8_t* row) {
  float clean[kMaxDims], residuals[2 * kMaxDims], y[kMaxDims];
  for (int i = 0; i < e.head_dim; i += 8) store(clean + i, finite(load<vf>(key + i)));
  const int c = subtract_nearer_mean(e, clean, turn, residuals);
  const float* residual = residuals + c * e.head_dim;
  for (int slot = 0; slot < e.head_dim; ++slot) y[slot] = e.gain[slot] * residual[e.dims[slot]];
  const float sum = rotate_groups(e, y);
  float inverses[kTriedNorms];
  try_norms(__builtin_sqrtf(sum / e.total_weight), inverses);

  const NormChoice best = choose(e, y, inverses);
  *row++ = static_cast<std::uint8_t>(c << 7 | best.norm_code);
  const CodeTree* trees = code_trees();
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    kPutGroup[e.widths[g]](trees[e.widths[g]], y + g * kGroup, inverses[best.tried], row);
    row += 2 * e.widths[g];
  }
}
