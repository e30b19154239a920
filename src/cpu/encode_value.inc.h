// Value rows. Included by encode_avx2.cc.
//
// The format asks for sums in order, which take as many times the latency of an addition as a value has
// numbers. So a row is made from a sum in another order first, with bounds that hold the one in order: when
// both bounds give the same bytes, so does that one, since codes and norm byte do not fall (or rise) as a sum
// grows.

float sum_in_order(const float* x, int n) {
  float sum = 0;
  for (int i = 0; i < n; ++i) sum += x[i];
  return sum;
}

struct Bounds {
  float low, high;
};

// n numbers, none negative. A sum is off by n / 2^24 of itself in order, by less than that in lanes.
GTQ_INLINE Bounds bound_lanes(vf lanes, int n) {
  const float sum = tree_sum(lanes), error = 0x1p-22f * static_cast<float>(n);
  return {sum * (1 - error), sum * (1 + error)};
}
GTQ_INLINE Bounds bound_sum(const float* x, int n) {
  vf lanes{};
  for (int i = 0; i < n; i += 8) lanes += load<vf>(x + i);
  return bound_lanes(lanes, n);
}

GTQ_INLINE float inverse_norm(float sum, int n) {
  const float norm = __builtin_sqrtf(sum / static_cast<float>(n));
  return norm > 0.0f ? 1.0f / norm : 0.0f;
}

// Returns false when the bytes differ between the bounds.
template <int kWidth>
bool put_value(const CodeTree& tree, const float* y, int n, Bounds sum, std::uint8_t* row) {
  const vf inverse = splat(inverse_norm(sum.low, n)), other_inverse = splat(inverse_norm(sum.high, n));
  float squares[kMaxDims];
  std::uint8_t* out = row + 1;
  vi differ{};
  vf coded_lanes{};
  for (int i = 0; i < n; i += 8, out += kWidth) {
    const vf x = load<vf>(y + i);
    const vi codes = nearest_codes_of_both<kWidth>(tree, x * inverse, x * other_inverse, &differ);
    const vf centroids = centroids_of<kWidth>(tree, codes);
    store(squares + i, centroids * centroids);
    coded_lanes += centroids * centroids;
    put_codes<kWidth>(codes, out);
  }
  if (any_lane(differ)) return false;
  const Bounds coded = bound_lanes(coded_lanes, n);
  row[0] = value_norm_byte(__builtin_sqrtf(sum.low / coded.high));
  if (row[0] == value_norm_byte(__builtin_sqrtf(sum.high / coded.low))) return true;
  if (sum.low != sum.high) return false;
  row[0] = value_norm_byte(__builtin_sqrtf(sum.low / sum_in_order(squares, n)));
  return true;
}

using PutValue = bool (*)(const CodeTree&, const float*, int, Bounds, std::uint8_t*);
constexpr PutValue kPutValue[] = {nullptr,      put_value<1>, put_value<2>, put_value<3>,
                                  put_value<4>, put_value<5>, put_value<6>};

void encode_value(const ValueEncoding& e, const float* value, std::uint8_t* row) {
  const int d = e.head_dim;
  float y[kMaxDims], squares[kMaxDims];
  for (int i = 0; i < d; i += 8) {
    const vf x = finite(load<vf>(value + i)) * load<vf>(e.gain + i);
    store(y + i, x);
    store(squares + i, x * x);
  }
  for (int i = 0; i < d; i += e.rotation_dims) hadamard(y + i, e.rotation_dims);
  const CodeTree& tree = code_trees()[e.width];
  const Bounds bounds = bound_sum(squares, d);
  if (bounds.high < __builtin_inff() && kPutValue[e.width](tree, y, d, bounds, row)) return;
  const float sum = sum_in_order(squares, d);
  kPutValue[e.width](tree, y, d, {sum, sum}, row);
}
