// What is done once per (query row, head) pair: its query in slot space and as 16-bit numbers, the products
// with the mean keys, and in the end its output row.

// ---- Hadamard transform

// Sums of lanes kHalf apart, then their differences.
template <int kHalf>
GTQ_INLINE vf butterfly(vf x) {
  vf sign;
  for (int i = 0; i < kLanes; ++i) sign[i] = (i & kHalf) == 0 ? 1.0f : -1.0f;
  return sign * x + exchanged<kHalf>(x);
}

template <int kHalf = 1>
GTQ_INLINE vf butterflies(vf x) {
  if constexpr (kHalf < kLanes) return butterflies<2 * kHalf>(butterfly<kHalf>(x));
  return x;
}

// Of each `block` of n numbers, not normalized; block is a power of two, at least 16.
void hadamard(float* x, int n, int block) {
  for (int i = 0; i < n; i += kLanes) store(x + i, butterflies(load<vf>(x + i)));
  for (int half = kLanes; half < block; half *= 2) {
    for (int i = 0; i < n; i += 2 * half) {
      for (int j = i; j < i + half; j += kLanes) {
        const vf a = load<vf>(x + j), b = load<vf>(x + j + half);
        store(x + j, a + b);
        store(x + j + half, a - b);
      }
    }
  }
}

// ---- quantized operands

constexpr float kMaxQuantized = 32639.0f;  // 127 * 256 + 127
constexpr float kMaxSum = 2147000000.0f;

// Numbers per unit such that n numbers with these bounds fit 16 bits each and their dot product with levels 32.
float quantizer_scale(float largest, float sum_of_magnitudes) {
  const float by_number = kMaxQuantized / largest, by_sum = kMaxSum / (128.0f * sum_of_magnitudes);
  return by_number < by_sum ? by_number : by_sum;
}

// Row m of n numbers that levels are to be multiplied by, in the form for few or for many pairs.
GTQ_INLINE void pack_row(const float* x, int n, float scale, int m, std::size_t n_pairs, Quad* quads,
                         void* bias) {
  if (n_pairs > kBlockPairs) return pack_many(x, n, scale, m, n_pairs, quads, bias);
  static_cast<Bias*>(bias)[m] = pack_quads(x, n, scale, quads + m, n_pairs);
}

// ---- queries

// Query q of pair m in slot space, as quads.
void quantize_query(const PageJob& job, const float* q, int m) {
  const HeadTables& head = *job.head;
  const Scratch& s = job.scratch;
  const int n = head.head_dim_k;
  for (int slot = 0; slot < n; ++slot) s.query[slot] = q[head.query_dims[slot]];
  for (int i = 0; i < n; i += kLanes) {
    store(s.query + i, load<vf>(s.query + i) * load<vf>(head.query_gain + i) * job.sm_scale);
  }
  hadamard(s.query, n, kPanel);
  vf largest = splat(1e-30f), sum = splat(1e-30f);
  for (int i = 0; i < n; i += kLanes) {
    const vf magnitude = reinterpret_cast<vf>(load<vu>(s.query + i) & 0x7fffffffu);
    largest = max(largest, magnitude);
    sum += magnitude;
  }
  const float scale = quantizer_scale(lane_max(largest), lane_sum(sum));
  s.query_step[m] = 1.0f / scale;
  pack_row(s.query, n, scale, m, static_cast<std::size_t>(job.n_rows) * job.n_heads, s.query_quads,
           s.query_bias);
}

// conj(q) mu of pair m, all centred rope_blocks and both means.
void multiply_means(const PageJob& job, const float* q, int m) {
  const MeanTables& mean = job.head->mean;
  const Scratch& s = job.scratch;
  const int n = 2 * mean.n_padded;
  const std::size_t n_pairs = static_cast<std::size_t>(job.n_rows) * job.n_heads;
  vi re, im, swap;
  vf signs;
  for (int i = 0; i < kLanes; ++i) {
    re[i] = i & ~1;
    im[i] = i | 1;
    swap[i] = i ^ 1;
    signs[i] = i % 2 == 0 ? 1.0f : -1.0f;
  }
  for (int i = 0; i < n; ++i) s.query[i] = q[mean.dims[i]];
  for (int i = 0; i < n; i += kLanes) {
    const vf x = load<vf>(s.query + i) * job.sm_scale;
    const vf q_re = __builtin_shuffle(x, re), q_im = signs * __builtin_shuffle(x, im);
    for (int c = 0; c < kMeanKeys; ++c) {
      const vf mu = load<vf>(mean.means + c * n + i);
      store(s.mean_c + (c * n_pairs + m) * n + i, q_re * mu + q_im * __builtin_shuffle(mu, swap));
    }
  }
}

void prepare_pairs(const PageJob& job) {
  for (int m = 0; m < job.n_rows * job.n_heads; ++m) {
    const float* q = reinterpret_cast<const float*>(reinterpret_cast<const char*>(job.q) +
                                                    m / job.n_heads * job.q_row_stride +
                                                    m % job.n_heads * job.q_head_stride);
    quantize_query(job, q, m);
    multiply_means(job, q, m);
  }
}

// ---- output

void finish_pair(const OutputJob& job) {
  const HeadTables& head = *job.head;
  for (int i = 0; i < head.head_dim_v; i += kLanes) {
    vf sum = job.weights[0] * load<vf>(job.parts[0] + i);
    for (int part = 1; part < job.n_parts; ++part) sum += job.weights[part] * load<vf>(job.parts[part] + i);
    store(job.out + i, sum);
  }
  hadamard(job.out, head.head_dim_v, head.rotation_dims);
  for (int i = 0; i < head.head_dim_v; i += kLanes) {
    store(job.out + i, load<vf>(job.out + i) * load<vf>(head.output_gain + i));
  }
}
