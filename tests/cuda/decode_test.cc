// Decode on the GPU against attention in double on the decoded token rows of the same bytes.
#include <thread>
#include <utility>

#include "cuda/attention_case.h"

namespace gtq::test {
namespace {

constexpr double kTolerance = 1e-3;  // relative L2
using Shape = AttentionShape;

class DecodeCase : public AttentionCase {
 public:
  using AttentionCase::AttentionCase;

  bool begins_early = false;
  bool feeds_back = false;                               // the output of a launch are the queries of the next
  std::shared_ptr<DeviceArray<std::uint8_t>> workspace;  // made by the first run if there is none

  // The output of the last of n_launches, which follow each other on the stream.
  std::vector<float> run(cudaStream_t stream = nullptr, int n_launches = 1) {
    DeviceArray<float> q(q_), out(out_size());
    DeviceArray<std::uint16_t> mask(mask_);
    DeviceArray<float> sinks(sinks_);
    DeviceArray<std::int32_t> indptr(indptr_), indices(indices_), last(last_page_len_);
    out.fill(0xff);
    cuda::DecodeCall call;
    call.layer = &tables_;
    call.cache = cache_view();
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
    call.begins_early = begins_early;
    if (workspace == nullptr) {
      workspace = std::make_shared<DeviceArray<std::uint8_t>>(cuda::decode_workspace_bytes(call));
      workspace->fill(0);
    }
    call.workspace = workspace->data();
    expect_ok(cudaDeviceSynchronize());
    float *from = q.data(), *to = out.data();
    for (int i = 0; i < n_launches; ++i) {
      call.q = from;
      call.out = to;
      cuda::decode(call, stream);
      if (feeds_back) std::swap(from, to);
    }
    return (call.out == out.data() ? out : q).download();
  }
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
  unsigned seed = 31;
  for (const Shape& shape : shaped_variants({128, 128, 12, 2, 3, {777, 130}, {4, 3}, 0.3f}))
    check(shape, seed++);
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
  shape.kv_lens.assign(40, 130);  // more sequences than run at once in narrow tiles
  check(shape, 44);
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

TEST(CudaDecode, EarlyLaunchesSeeWhatTheOneBeforeWrote) {
  GTQ_NEEDS_GPU();
  for (const int n_heads : {16, 64}) {  // one tile, two
    DecodeCase test({128, 128, n_heads, 2, 1, {8192}, {3, 3}, 0.25f}, 71);
    test.feeds_back = true;
    const std::vector<float> want = test.run(nullptr, 50);
    test.begins_early = true;
    for (int i = 0; i < 20; ++i) EXPECT_EQ(test.run(nullptr, 50), want) << i;
  }
}

// Sums of other calls, with as many splits or not, stay in it.
TEST(CudaDecode, CallsOfOtherShapesShareAWorkspace) {
  GTQ_NEEDS_GPU();
  DecodeCase cases[] = {{{128, 128, 16, 2, 1, {8192}, {3, 3}, 0.25f}, 81},
                        {{128, 128, 16, 2, 3, {3000, 500, 64}, {3, 3}, 0.25f}, 82},
                        {{64, 64, 32, 2, 1, {20000}, {2, 2}, 0.25f}, 83}};
  std::vector<std::vector<float>> want;
  for (DecodeCase& one : cases) want.push_back(one.run());
  const auto shared = std::make_shared<DeviceArray<std::uint8_t>>(std::size_t{16} << 20);
  shared->fill(0);
  for (int i = 0; i < 9; ++i) {
    cases[i % 3].workspace = shared;
    EXPECT_EQ(cases[i % 3].run(nullptr, 1 + i % 2), want[i % 3]) << i;
  }
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

// Of narrow tiles, two of them, a wide one and teams.
TEST(CudaDecode, TilesOfAllKinds) {
  GTQ_NEEDS_GPU();
  struct Size {
    int n_q_heads, n_rows, kv_len;
  };
  unsigned seed = 300;
  for (const int head_dim : {64, 96, 128, 256}) {
    for (const auto [n_q_heads, n_rows, kv_len] :
         {Size{6, 1, 1100}, {6, 2, 1100}, {16, 1, 9000}, {24, 1, 1100}, {24, 2, 1100}, {24, 5, 1100}}) {
      Shape shape{head_dim, head_dim, n_q_heads, 2, n_rows, {kv_len, 130}, {3, 3}};
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
  for (const int n_heads : {4, 16}) {
    Shape shape{128, 128, n_heads, 1, 1, {6000}, {4, 4}};
    for (const float sigma : {10.0f, 100.0f}) {
      shape.q_sigma = sigma;
      check(shape, seed++);
    }
  }
}

// Polynomials of degree 2.
TEST(CudaDecode, SlowMeans) {
  GTQ_NEEDS_GPU();
  unsigned seed = 450;
  for (const int n_heads : {4, 8, 16}) {
    for (const int head_dim : {64, 128}) {
      Shape shape{head_dim, head_dim, n_heads, 1, 1, {20000, 70}, {3, 3}, 1.0f};
      shape.slow_means = true;
      check(shape, seed++);
      shape.mixed_means = true;
      check(shape, seed++);
    }
  }
}

// Enough sequences that there are no splits: a thread block takes all pages, in many rounds, a few or none in
// the last.
TEST(CudaDecode, ManyPagesPerThreadBlock) {
  GTQ_NEEDS_GPU();
  unsigned seed = 400;
  for (const int n_heads : {4, 8, 16}) {
    for (const int head_dim : {64, 96, 128, 256}) {
      Shape shape{head_dim, head_dim, n_heads, 1, 1, {}, {3, 3}};
      for (int b = 0; b < 70; ++b) shape.kv_lens.push_back(1 + 97 * b % 2100);
      check(shape, seed++);
    }
    Shape shape{128, 128, n_heads, 1, 1, std::vector<std::int64_t>(70, 128), {3, 3}};
    shape.with_positions = true;  // those of the pages, so that copies are alike
    shape.repeats = 18000;        // 36,000 pages, 3,000 a warp, 12,000 a team: sums are carried, and halved
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
