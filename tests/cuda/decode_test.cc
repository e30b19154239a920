// Decode on the GPU against attention in double on the decoded token rows of the same bytes.
#include <numeric>
#include <thread>

#include "cuda/gpu.h"

namespace gtq::test {
namespace {

constexpr double kTolerance = 1e-3;  // relative L2
constexpr std::uint16_t kHalfMinusInfinity = 0xfc00;

struct Shape {
  int head_dim_k, head_dim_v, n_q_heads, n_kv_heads, n_rows;
  std::vector<std::int64_t> kv_lens;  // per sequence
  Budget budget;
  float centred_share = 0.5f;
  bool paged = true;
  bool with_positions = false;  // positions that jump, empty cells
  bool mixed_means = false;
  bool with_mask = false, with_sinks = false;
  float softcap = 0, alibi = 0, q_sigma = 1;
  int repeats =
      1;  // the pages of a sequence, whole ones, follow each other so often: the output stays the same
};

class DecodeCase {
 public:
  DecodeCase(const Shape& shape, unsigned seed)
      : random_(seed),
        shape_(shape),
        layer_(random_layer(random_, shape.n_q_heads, shape.n_kv_heads, shape.head_dim_k, shape.head_dim_v,
                            shape.centred_share)),
        codec_(layer_, shape.budget),
        tables_(codec_) {
    batch_ = static_cast<int>(shape.kv_lens.size());
    longest_ = *std::max_element(shape.kv_lens.begin(), shape.kv_lens.end());
    for (const std::int64_t n : shape.kv_lens) n_pages_.push_back((n + kPageTokens - 1) / kPageTokens);
    pages_per_sequence_ = (longest_ + kPageTokens - 1) / kPageTokens;
    make_pages();
    fill_cache();
    for (std::int64_t i = 0; i < batch_ * shape.n_rows * shape.n_q_heads * shape.head_dim_k; ++i) {
      q_.push_back(random_normal(random_, shape.q_sigma));
    }
    if (shape.with_mask) make_mask();
    for (int h = 0; h < shape.n_q_heads && shape.with_sinks; ++h)
      sinks_.push_back(random_normal(random_, 2.0f));
  }

  // The output of the last of n_launches, which follow each other on the stream.
  std::vector<float> run(cudaStream_t stream = nullptr, int n_launches = 1) {
    DeviceArray<float> q(q_), out(out_size());
    DeviceArray<std::uint16_t> mask(mask_);
    DeviceArray<float> sinks(sinks_);
    DeviceArray<std::int32_t> indptr(indptr_), indices(indices_), last(last_page_len_);
    if (workspace_ == nullptr) {
      workspace_ = std::make_unique<DeviceArray<std::uint8_t>>(
          cuda::decode_workspace_bytes(tables_, batch_, shape_.n_q_heads, shape_.n_rows));
      workspace_->fill(0);
    }
    out.fill(0xff);
    cuda::DecodeCall call;
    call.layer = &tables_;
    call.cache = cache_->view();
    if (!shape_.with_positions) call.cache.positions = nullptr, call.cache.summaries = nullptr;
    call.sequences = {batch_, nullptr, nullptr, nullptr, shape_.repeats * longest_, pages_per_sequence_};
    if (shape_.paged) {
      call.sequences.indptr = indptr.data();
      call.sequences.indices = indices.data();
      call.sequences.last_page_len = last.data();
    }
    call.n_q_heads = shape_.n_q_heads;
    call.n_rows = shape_.n_rows;
    call.q = q.data();
    call.q_head_stride = shape_.head_dim_k;
    call.q_row_stride = shape_.n_q_heads * call.q_head_stride;
    call.q_batch_stride = shape_.n_rows * call.q_row_stride;
    call.out = out.data();
    call.out_head_stride = shape_.head_dim_v;
    call.out_row_stride = shape_.n_q_heads * call.out_head_stride;
    call.out_batch_stride = shape_.n_rows * call.out_row_stride;
    call.mask = shape_.with_mask ? mask.data() : nullptr;
    call.mask_row_stride = mask_stride();
    call.mask_batch_stride = shape_.n_rows * call.mask_row_stride;
    call.sinks = shape_.with_sinks ? sinks.data() : nullptr;
    call.sm_scale = sm_scale();
    call.logit_softcap = shape_.softcap;
    call.alibi_max_bias = shape_.alibi;
    call.workspace = workspace_->data();
    expect_ok(cudaDeviceSynchronize());
    for (int i = 0; i < n_launches; ++i) cuda::decode(call, stream);
    return out.download();
  }

  std::vector<double> expected() const {
    std::vector<double> all;
    for (int b = 0; b < batch_; ++b) {
      const std::vector<double> one = reference::attention(reference_input(b));
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

 private:
  float sm_scale() const { return 1.0f / std::sqrt(static_cast<float>(shape_.head_dim_k)); }
  std::size_t out_size() const {
    return static_cast<std::size_t>(batch_) * shape_.n_rows * shape_.n_q_heads * shape_.head_dim_v;
  }
  std::int64_t mask_stride() const { return longest_ + longest_ % 2; }

  void make_pages() {
    const std::int64_t n = shape_.paged ? std::accumulate(n_pages_.begin(), n_pages_.end(), std::int64_t{0}) + 3
                                        : pages_per_sequence_ * batch_;
    std::vector<std::int32_t> order(n);
    std::iota(order.begin(), order.end(), 0);
    if (shape_.paged) std::shuffle(order.begin(), order.end(), random_);
    indptr_.push_back(0);
    std::size_t next = 0;
    for (int b = 0; b < batch_; ++b) {
      if (!shape_.paged) next = static_cast<std::size_t>(b * pages_per_sequence_);
      for (int repeat = 0; repeat < shape_.repeats; ++repeat) {
        for (std::int64_t i = 0; i < n_pages_[b]; ++i) indices_.push_back(order[next + i]);
      }
      next += n_pages_[b];
      indptr_.push_back(static_cast<std::int32_t>(indices_.size()));
      last_page_len_.push_back(static_cast<std::int32_t>((shape_.kv_lens[b] - 1) % kPageTokens + 1));
    }
    cache_ = std::make_unique<DeviceCache>(codec_, n);
    n_physical_ = n;
  }

  std::vector<std::int32_t> make_positions(std::int64_t n) {
    std::vector<std::int32_t> positions = consecutive(n, 0);
    if (!shape_.with_positions) return positions;
    const std::int32_t start = random_int(random_, 0, 1) == 0 ? 0 : random_int(random_, 0, 100000);
    for (std::int64_t j = 0; j < n; ++j) {
      positions[j] += start;
      if (j / kPageTokens % 3 == 1 && random_int(random_, 0, 9) == 0)
        positions[j] = random_int(random_, 0, 5000);
      if (random_int(random_, 0, 19) == 0) positions[j] = kEmptyCell;
    }
    return positions;
  }

  void fill_cache() {
    std::vector<std::int32_t> cell_positions(n_physical_ * kPageTokens, kEmptyCell);
    for (int b = 0; b < batch_; ++b) {
      const std::int64_t n = shape_.kv_lens[b];
      rows_.push_back(random_token_rows(random_, codec_, n, shape_.mixed_means));
      positions_.push_back(make_positions(n));
      std::vector<std::int64_t> cells;
      for (std::int64_t j = 0; j < n; ++j) {
        cells.push_back(static_cast<std::int64_t>(indices_[indptr_[b] + j / kPageTokens]) * kPageTokens +
                        j % kPageTokens);
        cell_positions[cells.back()] = positions_[b][j];
      }
      const DeviceArray<std::int64_t> device_cells(cells);
      const DeviceArray<std::uint8_t> keys(rows_[b].keys), values(rows_[b].values);
      cuda::scatter_rows(tables_, cache_->view(), device_cells.data(), n, keys.data(), values.data(), nullptr);
      expect_ok(cudaDeviceSynchronize());
    }
    cache_->set_positions(cell_positions);
    cuda::summarize(cache_->view(), 0, n_physical_, nullptr);
  }

  void make_mask() {
    const std::int64_t stride = mask_stride();
    mask_.assign(static_cast<std::size_t>(batch_ * shape_.n_rows * stride), kHalfMinusInfinity);
    for (int b = 0; b < batch_; ++b) {
      for (int r = 0; r < shape_.n_rows; ++r) {
        for (std::int64_t j = 0; j < shape_.kv_lens[b]; ++j) {
          const bool seen = j < shape_.kv_lens[b] - shape_.n_rows + r + 1 && random_int(random_, 0, 6) != 0;
          if (seen)
            mask_[(b * shape_.n_rows + r) * stride + j] =
                static_cast<std::uint16_t>(0x8000 | random_int(random_, 0, 0x4000));
        }
      }
    }
  }

  reference::AttentionInput reference_input(int b) const {
    const std::int64_t n = shape_.kv_lens[b];
    reference::AttentionInput input;
    input.n_q_heads = shape_.n_q_heads;
    input.n_kv_heads = shape_.n_kv_heads;
    input.head_dim_k = shape_.head_dim_k;
    input.head_dim_v = shape_.head_dim_v;
    input.n_rows = shape_.n_rows;
    input.kv_len = n;
    const std::int64_t n_q = static_cast<std::int64_t>(shape_.n_rows) * shape_.n_q_heads * shape_.head_dim_k;
    input.q.assign(q_.begin() + b * n_q, q_.begin() + (b + 1) * n_q);
    input.keys.resize(shape_.n_kv_heads * n * shape_.head_dim_k);
    input.values.resize(shape_.n_kv_heads * n * shape_.head_dim_v);
    input.mask.assign(shape_.n_rows * n, 0);
    input.sinks.assign(sinks_.begin(), sinks_.end());
    input.sm_scale = sm_scale();
    input.logit_softcap = shape_.softcap;
    input.alibi_max_bias = shape_.alibi;
    const std::uint8_t *key = rows_[b].keys.data(), *value = rows_[b].values.data();
    for (std::int64_t j = 0; j < n; ++j) {
      for (int r = 0; r < shape_.n_rows; ++r) {
        std::uint16_t& bias = input.mask[r * n + j];
        if (shape_.with_mask) bias = mask_[(b * shape_.n_rows + r) * mask_stride() + j];
        if (positions_[b][j] == kEmptyCell) bias = kHalfMinusInfinity;
      }
      for (int h = 0; h < shape_.n_kv_heads; ++h) {
        const std::vector<double> k =
            reference::decode_key(codec_.plan(h), layer_.rope, key, std::max(positions_[b][j], 0));
        const std::vector<double> v = reference::decode_value(codec_.plan(h), value);
        std::copy(k.begin(), k.end(), &input.keys[(h * n + j) * shape_.head_dim_k]);
        std::copy(v.begin(), v.end(), &input.values[(h * n + j) * shape_.head_dim_v]);
        key += codec_.key_codec(h).row_bytes();
        value += codec_.value_codec(h).row_bytes();
      }
    }
    return input;
  }

  Random random_;
  Shape shape_;
  LayerProfile layer_;
  LayerCodec codec_;
  cuda::Layer tables_;
  int batch_ = 0;
  std::int64_t longest_ = 0, pages_per_sequence_ = 0, n_physical_ = 0;
  std::vector<std::int64_t> n_pages_;
  std::vector<std::int32_t> indptr_, indices_, last_page_len_;
  std::vector<TokenRows> rows_;
  std::vector<std::vector<std::int32_t>> positions_;
  std::vector<float> q_, sinks_;
  std::vector<std::uint16_t> mask_;
  std::unique_ptr<DeviceCache> cache_;
  std::unique_ptr<DeviceArray<std::uint8_t>> workspace_;
};

void check(const Shape& shape, unsigned seed) {
  DecodeCase test(shape, seed);
  const std::vector<float> got = test.run();
  const double error = relative_l2(got, test.expected());
  std::printf("  seed %u, head_dim %d/%d, heads %d/%d, rows %d, %s: %.2e\n", seed, shape.head_dim_k,
              shape.head_dim_v, shape.n_q_heads, shape.n_kv_heads, shape.n_rows,
              to_string(shape.budget).c_str(), error);
  EXPECT_LT(error, kTolerance) << seed;
  EXPECT_EQ(test.run(), got) << "not deterministic, seed " << seed;
}

TEST(CudaDecode, PlainShapes) {
  GTQ_NEEDS_GPU();
  check({128, 128, 16, 2, 1, {8192}, {3, 3}, 0.0f}, 1);
  check({128, 128, 32, 8, 1, {4096}, {3, 3}, 0.25f}, 2);
  check({128, 128, 4, 4, 1, {1000, 1, 64, 65}, {4, 4}, 0.25f}, 3);
  check({64, 64, 16, 4, 1, {3000}, {2, 2}, 0.5f}, 4);
  check({96, 96, 8, 2, 1, {2500}, {3, 4}, 0.5f}, 5);
  check({256, 256, 8, 1, 1, {2500}, {3, 3}, 1.0f}, 6);
  check({128, 128, 32, 2, 1, {2500}, {3, 3}, 1.0f}, 7);  // 16 query heads per KV head
}

TEST(CudaDecode, AllWidths) {
  GTQ_NEEDS_GPU();
  for (int bits = 1; bits <= 6; ++bits)
    check({128, 128, 8, 2, 1, {1500}, {1.0 * bits, 1.0 * bits}, 0.3f}, 10 + bits);
}

TEST(CudaDecode, ManyQueryRows) {
  GTQ_NEEDS_GPU();
  for (int rows = 2; rows <= 8; rows += 3) check({128, 128, 12, 2, rows, {700, 300}, {3, 3}, 0.3f}, 20 + rows);
}

TEST(CudaDecode, MaskSinksSoftcapAlibi) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 12, 2, 3, {777, 130}, {4, 3}, 0.3f};
  shape.with_mask = true;
  check(shape, 31);
  shape.with_sinks = true;
  check(shape, 32);
  shape.softcap = 5;
  check(shape, 33);
  shape.alibi = 8;
  check(shape, 34);
  shape.paged = false;
  check(shape, 35);
}

TEST(CudaDecode, PositionsThatJump) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 8, 2, 2, {1000, 200}, {3, 3}, 0.5f};
  shape.with_positions = true;
  check(shape, 41);
  shape.mixed_means = true;
  check(shape, 42);
  shape.paged = false;
  check(shape, 43);
}

TEST(CudaDecode, LargeLogits) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 14, 2, 1, {6000}, {4, 4}, 0.5f};
  for (const float sigma : {10.0f, 100.0f}) {
    shape.q_sigma = sigma;
    check(shape, 50 + static_cast<unsigned>(sigma));
  }
}

// Thread blocks of a launch wait for each other.
TEST(CudaDecode, TwoStreamsAtOnce) {
  GTQ_NEEDS_GPU();
  const auto run = [](unsigned seed) {
    DecodeCase test({128, 128, 16, 2, 1, {8192}, {3, 3}, 0.25f}, seed);
    const std::vector<float> want = test.run();
    cudaStream_t stream;
    expect_ok(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < 10; ++i) EXPECT_EQ(test.run(stream, 100), want) << "seed " << seed;
    expect_ok(cudaStreamDestroy(stream));
  };
  std::thread other(run, 61);
  run(62);
  other.join();
}

// Two tiles of 8 (row, head) pairs per thread block, the last one full or not, of several thread blocks.
TEST(CudaDecode, TwoTiles) {
  GTQ_NEEDS_GPU();
  unsigned seed = 200;
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const int n_heads : {9, 12, 15, 16, 17, 24})
      check({head_dim, head_dim, n_heads, 1, 1, {900}, {3, 3}}, seed++);
    check({head_dim, head_dim, 32, 2, 1, {5000, 70}, {3, 3}, 0.25f}, seed++);
    check({head_dim, head_dim, 6, 2, 3, {1500, 1}, {4, 2}, 0.0f}, seed++);  // 9 pairs
    check({head_dim, head_dim, 6, 2, 8, {300}, {2, 5}, 1.0f}, seed++);      // 24 pairs
  }
  check({256, 128, 16, 1, 1, {3000}, {3, 3}}, seed++);
  check({64, 256, 16, 1, 1, {3000}, {3, 3}}, seed++);
  for (int bits = 1; bits <= 6; ++bits) check({128, 128, 16, 1, 1, {1500}, {1.0 * bits, 1.0 * bits}}, seed++);
}

TEST(CudaDecode, TwoTilesOfAllKinds) {
  GTQ_NEEDS_GPU();
  unsigned seed = 300;
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const int n_rows : {1, 2, 5}) {
      Shape shape{head_dim, head_dim, 24, 2, n_rows, {1100, 130}, {3, 3}};
      shape.with_mask = true;
      shape.with_sinks = true;
      check(shape, seed++);
      shape.softcap = 5;
      shape.alibi = 8;
      check(shape, seed++);
      shape.with_positions = true;
      shape.mixed_means = true;
      check(shape, seed++);
      shape.with_mask = false;
      shape.softcap = 0;
      check(shape, seed++);
    }
  }
  Shape shape{128, 128, 16, 1, 1, {6000}, {4, 4}};
  for (const float sigma : {10.0f, 100.0f}) {
    shape.q_sigma = sigma;
    check(shape, seed++);
  }
}

// Enough sequences that there are no splits: a thread block takes all pages, in many rounds, a few or none in
// the last.
TEST(CudaDecode, ManyPagesPerThreadBlock) {
  GTQ_NEEDS_GPU();
  unsigned seed = 400;
  for (const int n_heads : {4, 16}) {
    for (const int head_dim : {64, 96, 128, 256}) {
      Shape shape{head_dim, head_dim, n_heads, 1, 1, {}, {3, 3}};
      for (int b = 0; b < 140; ++b) shape.kv_lens.push_back(1 + 97 * b % 2100);
      check(shape, seed++);
    }
    Shape shape{128, 128, n_heads, 1, 1, std::vector<std::int64_t>(140, 128), {3, 3}};
    shape.with_positions = true;  // those of the pages, so that copies are alike
    shape.repeats = 1700;         // 3,400 pages: over 256 a warp and team, whose sums are halved then
    check(shape, seed++);
  }
}

TEST(CudaDecode, RandomShapes) {
  GTQ_NEEDS_GPU();
  const int dims[] = {64, 96, 128, 256};
  for (unsigned seed = 100; seed < 140; ++seed) {
    Random random(seed);
    Shape shape;
    shape.head_dim_k = 16 * random_int(random, 1, 16);
    shape.head_dim_v = dims[random_int(random, 0, 3)];
    shape.n_kv_heads = random_int(random, 1, 3);
    shape.n_q_heads = shape.n_kv_heads * random_int(random, 1, 9);
    shape.n_rows = random_int(random, 1, 8);
    for (int b = random_int(random, 1, 4); b > 0; --b) shape.kv_lens.push_back(random_int(random, 1, 900));
    shape.budget = {1.0 * random_int(random, 1, 6), 1.0 * random_int(random, 1, 6)};
    shape.centred_share = static_cast<float>(random_int(random, 0, 2)) / 2;
    shape.paged = random_int(random, 0, 1) == 0;
    if (!shape.paged) std::fill(shape.kv_lens.begin(), shape.kv_lens.end(), shape.kv_lens[0]);
    shape.with_positions = random_int(random, 0, 1) == 0;
    shape.mixed_means = random_int(random, 0, 1) == 0;
    shape.with_mask = random_int(random, 0, 1) == 0;
    shape.with_sinks = random_int(random, 0, 2) == 0;
    shape.softcap = random_int(random, 0, 2) == 0 ? 5.0f : 0.0f;
    shape.alibi = random_int(random, 0, 2) == 0 ? 8.0f : 0.0f;
    check(shape, seed);
  }
}

}  // namespace
}  // namespace gtq::test
