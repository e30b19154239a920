// Value rows, 16 numbers at a time. Included by encode_avx2.cc.

template <int kWidth>
void fit_value(const VectorCodebook& book, const std::int16_t* f, int n, const int* multipliers,
               ValueFit* fit) {
  __m256i yc[kTriedNorms], cc[kTriedNorms];
  GTQ_UNROLL
  for (int t = 0; t < kTriedNorms; ++t) {
    const __m256i multiplier = _mm256_set1_epi16(static_cast<std::int16_t>(multipliers[t]));
    LaneSums all = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int i = 0; i < n; i += kRun) {
      const LaneSums sums = sum_run<kWidth>(book, _mm256_abs_epi16(load_run(f + i)), multiplier);
      all.yc = _mm256_add_epi32(all.yc, sums.yc);
      all.cc = _mm256_add_epi32(all.cc, sums.cc);
    }
    yc[t] = all.yc;
    cc[t] = all.cc;
  }
  std::uint32_t sums[8];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), lane_sums(yc));
  __builtin_memcpy(fit->yc, sums, sizeof fit->yc);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums), lane_sums(cc));
  __builtin_memcpy(fit->cc, sums, sizeof fit->cc);
}

template <int kWidth>
void put_value(const VectorCodebook& book, const std::int16_t* f, int n, int multiplier, std::uint8_t* out) {
  for (int i = 0; i < n; i += kRun, out += 2 * kWidth) put_run<kWidth>(book, f + i, multiplier, out);
}

struct ValueFunctions {
  void (*fit)(const VectorCodebook&, const std::int16_t*, int, const int*, ValueFit*);
  void (*put)(const VectorCodebook&, const std::int16_t*, int, int, std::uint8_t*);
};
template <int kWidth>
constexpr ValueFunctions value_functions() {
  return {fit_value<kWidth>, put_value<kWidth>};
}
constexpr ValueFunctions kValueFunctions[] = {{},
                                              value_functions<1>(),
                                              value_functions<2>(),
                                              value_functions<3>(),
                                              value_functions<4>(),
                                              value_functions<5>(),
                                              value_functions<6>()};

void encode_value(const ValueEncoding& e, const float* value, std::uint8_t* row) {
  const int d = e.head_dim;
  float y[kMaxDims];
  std::int16_t f[kMaxDims];
  for (int i = 0; i < d; i += 8) store(y + i, limited(finite(load<vf>(value + i)) * load<vf>(e.gain + i)));
  for (int i = 0; i < d; i += e.rotation_dims) hadamard(y + i, e.rotation_dims);
  const float unit = to_fixed_point(y, d, f);
  __m256i squares = _mm256_setzero_si256();
  for (int i = 0; i < d; i += kRun) squares = _mm256_add_epi64(squares, square_sums(load_run(f + i)));
  ValueFit fit;
  fit.yy = sum_of_4(squares);
  int multipliers[kTriedNorms];
  const float mean_square = static_cast<float>(fit.yy) / static_cast<float>(d);
  try_value_norms(__builtin_sqrtf(mean_square) * unit, unit, multipliers);
  const VectorCodebook& book = vector_codebooks()[e.width];
  const ValueFunctions& functions = kValueFunctions[e.width];
  functions.fit(book, f, d, multipliers, &fit);
  const NormChoice best = choose_value_norm(fit, unit, book.step);
  row[0] = best.norm_code;
  functions.put(book, f, d, multipliers[best.tried], row + 1);
}
