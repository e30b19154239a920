// Key rows, 8 slots at a time. The format asks for sums in order; where a sum only decides something, it is
// taken in another order first, and in order when the decision is closer than the errors of both. Included by
// encode_avx2.cc.

// Sums over slots, lane t for norm t that is tried: y c, c c. One more lane has y for c, so yc is y y there. In
// order, sums are made in these lanes.
struct Fit {
  vf yc, cc;
};
constexpr int kEnergyLane = kTriedNorms;
constexpr int kLargestLane = kEnergyLane + 1;  // of loose sums: at least the largest |y|

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

GTQ_INLINE vf multiply_add(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }

// By sums in the order of the format.
int nearer_mean_in_order(const KeyEncoding& e, const float* key, const float* means) {
  float clean[kMaxDims];
  for (int i = 0; i < e.head_dim; i += 8) store(clean + i, finite(load<vf>(key + i)));
  return nearer_mean(e, clean, means);
}

// Residuals to both mean keys; returns the index of the nearer one. Distances here are rounded some 150 times
// at most, each time by up to 2^-24 of themselves.
GTQ_INLINE int subtract_means(const KeyEncoding& e, const float* key, const float* turn, float* residuals) {
  const int d = e.head_dim;
  float means[2 * kMaxDims];
  for (int c = e.one_mean ? 1 : 0; c < 2; ++c) turn_mean(e, turn, e.mean_keys + c * d, means + c * d);
  if (e.one_mean) {
    for (int i = d; i < 2 * d; i += 8) {
      store(residuals + i, finite(load<vf>(key + i - d)) - load<vf>(means + i));
    }
    return 1;
  }
  vf distances[2] = {};
  for (int i = 0; i < d; i += 8) {
    const vf x = finite(load<vf>(key + i)), weight = load<vf>(e.weight + i);
    GTQ_UNROLL
    for (int c = 0; c < 2; ++c) {
      const vf residual = x - load<vf>(means + c * d + i);
      store(residuals + c * d + i, residual);
      distances[c] = multiply_add(residual * residual, weight, distances[c]);
    }
  }
  const float first = tree_sum(distances[0]), second = tree_sum(distances[1]);
  const float margin = 0x1p-16f * (first + second);
  if (first + second > 0x1p-60f) {  // numbers so small have other errors
    if (first < second - margin) return 0;
    if (second < first - margin) return 1;
  }
  return nearer_mean_in_order(e, key, means);
}

float energy_in_order(const KeyEncoding& e, const float* y) {
  float sum = 0;
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    float group_sum = 0;
    for (int j = 0; j < kGroup; ++j) group_sum += y[g * kGroup + j] * y[g * kGroup + j];
    sum += e.group_weight[g] * group_sum;
  }
  return sum;
}

// Inverses of the norms to try for the scaled residual y, before its rotation.
GTQ_INLINE void try_norms_of(const KeyEncoding& e, const float* y, float* inverses) {
  vf sum{}, unweighted{};
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    const vf low = load<vf>(y + g * kGroup), high = load<vf>(y + g * kGroup + 8);
    const vf squares = multiply_add(low, low, high * high);
    unweighted += squares;
    sum = multiply_add(splat(e.group_weight[g]), squares, sum);
  }
  // Rounded n_groups + 17 times by the format, less often here; an infinite sum of a group has no bounds.
  const float error = 0x1p-23f * static_cast<float>(e.head_dim / kGroup + 20);
  const float energy = tree_sum(sum) / e.total_weight;
  if (tree_sum(unweighted) < 0x1p100f && try_norms_surely(__builtin_sqrtf(energy), error, inverses)) return;
  try_norms(__builtin_sqrtf(energy_in_order(e, y) / e.total_weight), inverses);
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

// GCC 12 takes a slow string instruction for `LooseFit sums{}`.
GTQ_INLINE void clear(LooseFit* sums) {
  GTQ_UNROLL
  for (int t = 0; t < kTriedNorms; ++t) sums->yc[t] = sums->cc[t] = vf{};
  sums->yy = sums->largest = vf{};
}

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
  LooseFit sums;
  clear(&sums);
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    const int width = e.widths[g];
    kAddLooseFit[width](trees[width], y + g * kGroup, inverses, e.group_weight[g], &sums);
  }
  static_assert(kTriedNorms == 5);
  vf yc[8] = {sums.yc[0], sums.yc[1], sums.yc[2], sums.yc[3], sums.yc[4], sums.yy, sums.largest};
  vf cc[8] = {sums.cc[0], sums.cc[1], sums.cc[2], sums.cc[3], sums.cc[4]};
  *fit = {lane_sums(yc), lane_sums(cc)};
  return fit->yc[kEnergyLane] > 0x1p-60f && fit->yc[kLargestLane] < 0x1p50f;
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
  float residuals[2 * kMaxDims], y[kMaxDims], inverses[kTriedNorms];
  const int c = subtract_means(e, key, turn, residuals);
  const float* residual = residuals + c * e.head_dim;
  for (int slot = 0; slot < e.head_dim; ++slot) y[slot] = e.gain[slot] * residual[e.dims[slot]];
  try_norms_of(e, y, inverses);
  for (int i = 0; i < e.head_dim; i += kGroup) hadamard(y + i, kGroup);
  const NormChoice best = choose(e, y, inverses);
  *row++ = static_cast<std::uint8_t>(c << 7 | best.norm_code);
  const CodeTree* trees = code_trees();
  for (int g = 0; g < e.head_dim / kGroup; ++g) {
    kPutGroup[e.widths[g]](trees[e.widths[g]], y + g * kGroup, inverses[best.tried], row);
    row += 2 * e.widths[g];
  }
}
