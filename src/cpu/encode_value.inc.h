// Value rows. Included by encode_avx2.cc.

float sum_in_order(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}

// Length of the coded vector, squared: its byte asks for the sum in order only where sums of another order,
// which differ by less than 2^-12 (at most 1024 terms, all positive), do not agree on the byte.
std::uint8_t norm_byte(const float* squares, int n, float sum) {
  vf lanes{};
  for (int i = 0; i < n; i += 8) lanes += load<vf>(squares + i);
  const float coded = lane_sum(lanes);
  const auto byte_for = [sum](float c) { return value_norm_byte(__builtin_sqrtf(sum / c)); };
  const std::uint8_t byte = byte_for(coded * (1 + 0x1p-12f));
  return byte == byte_for(coded * (1 - 0x1p-12f)) ? byte : byte_for(sum_in_order(squares, n));
}

template <int kWidth>
void put_value(const CodeTree& tree, const float* y, int n, float sum, std::uint8_t* row) {
  const float norm = __builtin_sqrtf(sum / static_cast<float>(n));
  const vf inverse = splat(norm > 0.0f ? 1.0f / norm : 0.0f);
  float squares[kMaxDims];
  std::uint8_t* out = row + 1;
  for (int i = 0; i < n; i += 8, out += kWidth) {
    const vi codes = nearest_codes<kWidth>(tree, load<vf>(y + i) * inverse);
    const vf centroids = centroids_of<kWidth>(tree, codes);
    store(squares + i, centroids * centroids);
    put_codes<kWidth>(codes, out);
  }
  row[0] = norm_byte(squares, n, sum);
}

using PutValue = void (*)(const CodeTree&, const float*, int, float, std::uint8_t*);
constexpr PutValue kPutValue[] = {nullptr,      put_value<1>, put_value<2>, put_value<3>,
                                  put_value<4>, put_value<5>, put_value<6>};

void encode_value(const ValueEncoding& e, const float* value, std::uint8_t* row) {
  float y[kMaxDims], squares[kMaxDims];
  for (int i = 0; i < e.head_dim; i += 8) {
    const vf x = finite(load<vf>(value + i)) * load<vf>(e.gain + i);
    store(y + i, x);
    store(squares + i, x * x);
  }
  for (int i = 0; i < e.head_dim; i += e.rotation_dims) hadamard(y + i, e.rotation_dims);
  kPutValue[e.width](code_trees()[e.width], y, e.head_dim, sum_in_order(squares, e.head_dim), row);
}
