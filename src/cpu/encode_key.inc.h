// Key rows, 16 slots at a time. The nearer mean is decided by sums in order; they are taken in another order
// first, and in order when the decision is closer than the errors of both. Included by encode_avx2.cc.

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

// Sums of a quant_group at all norms, lane t for norm t.
struct GroupSums {
  vf yc, cc;
};

template <int kWidth>
GroupSums sum_group(const VectorCodebook& book, const std::int16_t* f, const int* multipliers) {
  const __m256i sizes = _mm256_abs_epi16(load_run(f));
  __m256i yc[kTriedNorms], cc[kTriedNorms];
  GTQ_UNROLL
  for (int t = 0; t < kTriedNorms; ++t) {
    const __m256i multiplier = _mm256_set1_epi16(static_cast<std::int16_t>(multipliers[t]));
    const LaneSums sums = sum_run<kWidth>(book, sizes, multiplier);
    yc[t] = sums.yc;
    cc[t] = sums.cc;
  }
  return {_mm256_cvtepi32_ps(lane_sums(yc)), _mm256_cvtepi32_ps(lane_sums(cc))};
}

struct GroupFunctions {
  GroupSums (*sum)(const VectorCodebook&, const std::int16_t*, const int*);
  void (*put)(const VectorCodebook&, const std::int16_t*, int, std::uint8_t*);
};
template <int kWidth>
void put_group(const VectorCodebook& book, const std::int16_t* f, int multiplier, std::uint8_t* out) {
  put_run<kWidth>(book, f, multiplier, out);
}
template <int kWidth>
constexpr GroupFunctions group_functions() {
  return {sum_group<kWidth>, put_group<kWidth>};
}
constexpr GroupFunctions kGroupFunctions[] = {{},
                                              group_functions<1>(),
                                              group_functions<2>(),
                                              group_functions<3>(),
                                              group_functions<4>(),
                                              group_functions<5>(),
                                              group_functions<6>()};

// f: transformed residuals. Fills the multipliers of the norms that are tried.
NormChoice search_norm(const KeyEncoding& e, const std::int16_t* f, float unit, int* multipliers) {
  const int n_groups = e.head_dim / kRun;
  KeyFit fit;
  fit.yy = 0;
  for (int g = 0; g < n_groups; ++g) {
    fit.yy += e.group_weight[g] * static_cast<float>(sum_of_4(square_sums(load_run(f + g * kRun))));
  }
  try_key_norms(__builtin_sqrtf(fit.yy / e.total_weight) * unit, unit, multipliers);
  vf yc{}, cc{};
  for (int g = 0; g < n_groups; ++g) {
    const VectorCodebook& book = vector_codebooks()[e.widths[g]];
    const GroupSums sums = kGroupFunctions[e.widths[g]].sum(book, f + g * kRun, multipliers);
    const float yc_weight = e.group_weight[g] * book.step;
    yc += yc_weight * sums.yc;
    cc += yc_weight * book.step * sums.cc;
  }
  float lanes[kLanes];
  store(lanes, yc);
  __builtin_memcpy(fit.yc, lanes, sizeof fit.yc);
  store(lanes, cc);
  __builtin_memcpy(fit.cc, lanes, sizeof fit.cc);
  return choose_key_norm(fit, unit);
}

void encode_key(const KeyEncoding& e, const float* key, const float* turn, std::uint8_t* row) {
  float residuals[2 * kMaxDims], y[kMaxDims];
  std::int16_t f[kMaxDims];
  const int c = subtract_means(e, key, turn, residuals);
  const float* residual = residuals + c * e.head_dim;
  for (int slot = 0; slot < e.head_dim; ++slot) y[slot] = e.gain[slot] * residual[e.dims[slot]];
  for (int i = 0; i < e.head_dim; i += 8) store(y + i, limited(load<vf>(y + i)));
  for (int i = 0; i < e.head_dim; i += kRun) hadamard(y + i, kRun);
  const float unit = to_fixed_point(y, e.head_dim, f);
  int multipliers[kTriedNorms];
  const NormChoice best = search_norm(e, f, unit, multipliers);
  *row++ = static_cast<std::uint8_t>(c << 7 | best.norm_code);
  for (int g = 0; g < e.head_dim / kRun; ++g) {
    const int width = e.widths[g];
    kGroupFunctions[width].put(vector_codebooks()[width], f + g * kRun, multipliers[best.tried], row);
    row += 2 * width;
  }
}
