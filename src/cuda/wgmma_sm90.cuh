// Matrix products of a warpgroup (4 warps) on sm_90a, f16 with f32 sums: d[64 rows][N] += a[64][16] b[16][N].
//
// d: float[N / 2] per lane, the fragment of prefill_softmax.cuh; warp w of the group has rows 16 w ..+15.
// a: tiles in shared memory or a lane's A fragment (mma m16n8k16). b: tiles in shared memory.
// Tiles in shared memory are slabs of 64 halves per row with the 128-byte swizzle (prefill_params.h), aligned
// to 1024 bytes. Products run behind the instructions that follow; registers they use must not be touched
// before products_wait(). Reference: PTX ISA, "Asynchronous warpgroup level matrix instructions".
#pragma once

#include <cstdint>

namespace gtq::cuda {

// Describes a tile whose products run along its rows of 64 halves (a; b as [N][16]). For the next 16 halves add
// 2, for the next slab its bytes / 16.
__device__ __forceinline__ std::uint64_t along_rows(std::uint32_t address) {
  constexpr std::uint64_t kSwizzle128 = 1ull << 62, kEightRows = 1024 >> 4;
  return kSwizzle128 | kEightRows << 32 | 1ull << 16 | (address & 0x3ffff) >> 4;
}

// Describes a b [16][N] whose 16 are rows of the tile, in slabs slab_bytes apart. Next 16 rows: + 128.
__device__ __forceinline__ std::uint64_t across_rows(std::uint32_t address, std::uint32_t slab_bytes) {
  return (along_rows(address) & ~(0x3fffull << 16)) | static_cast<std::uint64_t>(slab_bytes >> 4) << 16;
}

__device__ __forceinline__ void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Behind products_wait(): the compiler must not read these sums before.
template <int N>
__device__ __forceinline__ void settle(float (&sums)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

#define GTQ_SUMS_8(d, i)                                                                                      \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
      "+f"(d[i + 7])
#define GTQ_SUMS_32(d, i) GTQ_SUMS_8(d, i), GTQ_SUMS_8(d, i + 8), GTQ_SUMS_8(d, i + 16), GTQ_SUMS_8(d, i + 24)
#define GTQ_SUMS_N64                                                       \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GTQ_SUMS_N128                                                                \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "           \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GTQ_SUMS_N256                                                                            \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                       \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "             \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "             \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "             \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "             \
  "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "             \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
  "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

// d = a b, or d += a b where `add` is not 0; both along rows.
__device__ __forceinline__ void multiply_tiles(float (&d)[32], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GTQ_SUMS_N64 "}, %32, %33, add, 1, 1, 0, 0;\n}"
      : GTQ_SUMS_32(d, 0)
      : "l"(a), "l"(b), "r"(add));
}

__device__ __forceinline__ void multiply_tiles(float (&d)[64], std::uint64_t a, std::uint64_t b, int add) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" GTQ_SUMS_N128 "}, %64, %65, add, 1, 1, 0, 0;\n}"
      : GTQ_SUMS_32(d, 0), GTQ_SUMS_32(d, 32)
      : "l"(a), "l"(b), "r"(add));
}

// d += a b; b across rows.
__device__ __forceinline__ void add_weighted(float (&d)[32], const std::uint32_t* a, std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GTQ_SUMS_N64
               "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : GTQ_SUMS_32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void add_weighted(float (&d)[64], const std::uint32_t* a, std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" GTQ_SUMS_N128
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : GTQ_SUMS_32(d, 0), GTQ_SUMS_32(d, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ __forceinline__ void add_weighted(float (&d)[128], const std::uint32_t* a, std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" GTQ_SUMS_N256
               "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 1;"
               : GTQ_SUMS_32(d, 0), GTQ_SUMS_32(d, 32), GTQ_SUMS_32(d, 64), GTQ_SUMS_32(d, 96)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef GTQ_SUMS_N256
#undef GTQ_SUMS_N128
#undef GTQ_SUMS_N64
#undef GTQ_SUMS_32
#undef GTQ_SUMS_8

}  // namespace gtq::cuda
