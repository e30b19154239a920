// Prefill on the GPU, by every kernel that this one can run, against attention in double on the decoded token
// rows of the same bytes.
#include "cuda/prefill.h"

#include "cuda/attention_case.h"
#include "gtq/error.h"

namespace gtq::test {
namespace {

using Shape = AttentionShape;
using cuda::PrefillKernel;

// Relative L2 against double on numbers rounded to f16 as the kernels round them (left over: weights in f16),
// and on the numbers themselves.
constexpr double kTolerance = 5e-4, kToleranceOfHalves = 1.5e-3, kToleranceOfRows = 5e-3;

class PrefillCase : public AttentionCase {
 public:
  using AttentionCase::AttentionCase;

  PrefillKernel best_kernel() const { return cuda::best_prefill_kernel(tables_); }

  std::vector<float> run(PrefillKernel kernel, std::int64_t chunk_keys, bool captured = false) {
    DeviceArray<float> q(q_), out(out_size());
    DeviceArray<std::uint16_t> mask(mask_);
    DeviceArray<float> sinks(sinks_);
    DeviceArray<std::int32_t> pages(indices_);
    out.fill(0xff);
    cuda::PrefillCall call;
    call.layer = &tables_;
    call.cache = cache_view();
    call.pages = shape_.paged ? pages.data() : nullptr;
    call.kv_len = longest_;
    call.n_q_heads = shape_.n_q_heads;
    call.n_rows = shape_.n_rows;
    call.q = q.data();
    call.q_head_stride = shape_.head_dim_k;
    call.q_row_stride = shape_.n_q_heads * call.q_head_stride;
    call.out = out.data();
    call.out_head_stride = shape_.head_dim_v;
    call.out_row_stride = shape_.n_q_heads * call.out_head_stride;
    call.causal = shape_.causal;
    call.mask = shape_.with_mask ? mask.data() : nullptr;
    call.mask_row_stride = mask_stride();
    call.sinks = shape_.with_sinks ? sinks.data() : nullptr;
    call.sm_scale = sm_scale();
    call.logit_softcap = shape_.softcap;
    call.alibi_max_bias = shape_.alibi;
    call.chunk_keys = chunk_keys;
    DeviceArray<std::uint8_t> workspace(cuda::prefill_workspace_bytes(call));
    workspace.fill(0xff);
    call.workspace = workspace.data();
    expect_ok(cudaDeviceSynchronize());
    run_on_stream(captured, [&](cudaStream_t stream) { cuda::prefill_with(kernel, call, stream); });
    return out.download();
  }
};

void check(const Shape& shape, unsigned seed, std::int64_t chunk_keys = 1024) {
  PrefillCase test(shape, seed);
  const std::vector<double> want = test.expected(), want_in_f16 = test.expected(true);
  for (const PrefillKernel kernel : {PrefillKernel::kSm80, test.best_kernel()}) {
    const std::vector<float> got = test.run(kernel, chunk_keys);
    const double error = relative_l2(got, want), error_in_f16 = relative_l2(got, want_in_f16);
    std::printf("  seed %u, kernel %d, head_dim %d/%d, heads %d/%d, rows %d, keys %lld: %.2e, f16 %.2e\n", seed,
                static_cast<int>(kernel), shape.head_dim_k, shape.head_dim_v, shape.n_q_heads, shape.n_kv_heads,
                shape.n_rows, static_cast<long long>(shape.kv_lens[0]), error, error_in_f16);
    EXPECT_LT(error, kToleranceOfHalves) << seed;
    EXPECT_LT(error_in_f16, kTolerance) << seed;
    EXPECT_LT(worst_row_l2(got, want_in_f16, shape.head_dim_v), kToleranceOfRows) << seed;
    EXPECT_EQ(test.run(kernel, chunk_keys, true), got) << "not the same from a graph, seed " << seed;
  }
}

TEST(CudaPrefill, PlainShapes) {
  GTQ_NEEDS_GPU();
  check({128, 128, 4, 2, 256, {1024}, {3, 3}, 0.25f}, 1);
  check({128, 128, 16, 2, 100, {3000}, {3, 3}, 0.0f}, 2);
  check({64, 64, 12, 4, 70, {1500}, {2, 2}, 0.5f}, 3);
  check({256, 256, 4, 1, 150, {1300}, {3, 3}, 1.0f}, 4);
  check({96, 96, 8, 2, 64, {700}, {4, 3}, 0.5f}, 5);
  check({128, 64, 4, 4, 129, {64}, {4, 4}, 0.5f}, 6);
  check({192, 128, 4, 2, 33, {1}, {4, 4}, 0.5f}, 7);
}

TEST(CudaPrefill, Causal) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 6, 2, 400, {900}, {3, 3}, 0.3f};
  shape.causal = true;
  check(shape, 11, 128);
  check(shape, 12, 4096);
  shape.kv_lens = {400};
  check(shape, 13);
  shape.with_positions = true;
  check(shape, 14);
}

TEST(CudaPrefill, MaskSinksSoftcapAlibi) {
  GTQ_NEEDS_GPU();
  unsigned seed = 31;
  for (const Shape& shape : shaped_variants({128, 128, 12, 2, 40, {777}, {4, 3}, 0.3f})) {
    check(shape, seed, 128 << seed % 4);
    ++seed;
  }
}

TEST(CudaPrefill, PositionsThatJump) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 8, 2, 50, {1000}, {3, 3}, 0.5f};
  shape.with_positions = true;
  check(shape, 41);
  shape.mixed_means = true;
  shape.paged = false;
  check(shape, 42);
}

// The lists of tiles at their longest, the usual chunk.
TEST(CudaPrefill, LongChunks) {
  GTQ_NEEDS_GPU();
  check({128, 128, 3, 1, 2, {9000}, {3, 3}, 0.3f}, 61, 8192);
  check({256, 256, 2, 1, 2, {17000}, {3, 3}, 0.3f}, 62, 16384);
}

// Masks of 0 and -inf: tiles that no row sees, that all do, and borders.
TEST(CudaPrefill, CausalAndWindowMasks) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 2, 1, 300, {1500}, {3, 3}, 0.3f};
  shape.with_mask = true;
  for (const int window : {100000, 700, 64}) {
    shape.window = window;
    check(shape, 70, 256);
    shape.alibi = 8;
    check(shape, 71, 4096);
    shape.alibi = 0;
  }
  shape.window = 0;
  shape.blind_row = true;
  check(shape, 72, 512);
  shape.with_sinks = true;
  check(shape, 73, 512);
}

TEST(CudaPrefill, LargeLogits) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 6, 1, 40, {2000}, {4, 4}, 0.5f};
  shape.q_sigma = 10;
  PrefillCase test(shape, 81);
  const std::vector<double> want = test.expected(true);
  for (const PrefillKernel kernel : {PrefillKernel::kSm80, test.best_kernel()}) {
    const double error = relative_l2(test.run(kernel, 1024), want);
    std::printf("  kernel %d: %.2e\n", static_cast<int>(kernel), error);
    EXPECT_LT(error, kTolerance);
  }
}

TEST(CudaPrefill, RandomShapes) {
  GTQ_NEEDS_GPU();
  for (unsigned seed = 100; seed < 130; ++seed) {
    Random random(seed);
    Shape shape;
    shape.head_dim_k = 16 * random_int(random, 1, 16);
    shape.head_dim_v = 32 * random_int(random, 1, 8);
    shape.n_kv_heads = random_int(random, 1, 3);
    shape.n_q_heads = shape.n_kv_heads * random_int(random, 1, 9);
    shape.n_rows = random_int(random, 1, 150);
    shape.kv_lens = {random_int(random, 1, 1500)};
    shape.causal = shape.n_rows <= shape.kv_lens[0] && random_int(random, 0, 1) == 0;
    shape.budget = {1.0 * random_int(random, 1, 6), 1.0 * random_int(random, 1, 6)};
    shape.centred_share = static_cast<float>(random_int(random, 0, 2)) / 2;
    shape.paged = random_int(random, 0, 1) == 0;
    shape.with_positions = random_int(random, 0, 1) == 0;
    shape.mixed_means = random_int(random, 0, 1) == 0;
    shape.with_mask = random_int(random, 0, 1) == 0;
    shape.with_sinks = random_int(random, 0, 2) == 0;
    shape.softcap = random_int(random, 0, 2) == 0 ? 5.0f : 0.0f;
    shape.alibi = random_int(random, 0, 2) == 0 ? 8.0f : 0.0f;
    check(shape, seed, 128 * random_int(random, 1, 8));
  }
}

TEST(CudaPrefill, RefusesWhatItCannotDo) {
  GTQ_NEEDS_GPU();
  Shape shape{128, 128, 4, 2, 16, {100}, {3, 3}, 0.3f};
  PrefillCase test(shape, 51);
  EXPECT_THROW(test.run(PrefillKernel::kSm80, 100), Error);
  EXPECT_THROW(test.run(PrefillKernel::kSm80, 2 * 16384), Error);
  Shape heads = shape;
  heads.n_q_heads = 5;
  EXPECT_THROW(PrefillCase(heads, 53).run(PrefillKernel::kSm80, 128), Error);
  shape.causal = true;
  shape.n_rows = 101;
  EXPECT_THROW(PrefillCase(shape, 52).run(PrefillKernel::kSm80, 128), Error);
}

}  // namespace
}  // namespace gtq::test
