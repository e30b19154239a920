// Two tiles of queries on one look at a page. Sums of the values of 16 rows are too many for the registers of a
// warp, so the head_dim_v / 32 warps of a team share them: a warp makes logits and weights of a page of its own
// for all rows, puts the weights into its stage, over the keys, and adds 32 dims of the values of all pages of
// the team. The references of the softmax are the team's.
//
// A round has one barrier: the weights of its pages are there. It also tells whether some weight of some warp
// does not fit; then (rarely) all move the references alike and make their weights again. Behind the barrier no
// warp reads pages of the round before any more: their stages may be filled.
#pragma once

#include "cuda/codebook.cuh"
#include "cuda/decode_softmax.cuh"

namespace gtq::cuda {

// A warp in its team.
template <int VD, int kPairs>
struct Team {
  static constexpr int kWarps = team_warps(VD, kPairs);
  static constexpr int kDims = VD / kWarps;  // dims kDims part ..+kDims - 1 of the values are the warp's
  int index, part;

  __device__ __forceinline__ explicit Team(int warp) : index(warp / kWarps), part(warp % kWarps) {}

  // Barrier; true when `value` is for some lane of the team. The vote tells the compiler that lanes agree.
  __device__ __forceinline__ bool any(bool value) const {
    return __any_sync(~0u, barrier_any(1 + index, 32 * kWarps, value)) != 0;
  }
};

// Tiles of a thread block of kPairs (row, head) pairs.
template <int kPairs>
struct Span {
  using Tile = std::conditional_t<kPairs == NarrowTile::kRows, NarrowTile, WideTile>;
  static constexpr int kTiles = kPairs / Tile::kRows;
};

template <int VD, int kPairs>
using TeamState = SoftmaxState<typename Span<kPairs>::Tile, Team<VD, kPairs>::kDims>[Span<kPairs>::kTiles];

// weights: [tile][half of the keys][32 lanes] A fragments.
template <int kTiles>
__device__ __forceinline__ void put_weights(const float (&v)[kTiles][16], const float* value_norms, int lane,
                                            float (&l)[kTiles], uint4* weights) {
  std::uint32_t w[kTiles][2][4];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile)
    make_weights<WideTile>(v[tile], value_norms, lane, l[tile], w[tile]);
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const std::uint32_t(&a)[4] = w[i / 2][i % 2];
    weights[i * 32 + lane] = make_uint4(a[0], a[1], a[2], a[3]);
  }
}

// largest: of the lane's s_j, per tile. halves: whether sums of this warp are full.
template <int VD, int kPairs, int kTiles>
__device__ __forceinline__ void move_references(const Team<VD, kPairs>& team, const float (&largest)[kTiles],
                                                bool halves, int lane, float (&v)[kTiles][16],
                                                TeamState<VD, kPairs>& state) {
  constexpr int kWarps = Team<VD, kPairs>::kWarps;
  __shared__ float of_warps[most_warps(VD, kPairs)][kPairs];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const float of_row = largest_of_row<WideTile>(largest[tile]);
    if (lane % 4 == 0) of_warps[team.index * kWarps + team.part][tile * WideTile::kRows + lane / 4] = of_row;
  }
  const bool all_halve = team.any(halves);
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    float of_row = kExcluded;
#pragma unroll
    for (int k = 0; k < kWarps; ++k) {
      of_row = fmaxf(of_row, of_warps[team.index * kWarps + k][tile * WideTile::kRows + lane / 4]);
    }
    const float by = move_reference(state[tile], of_row, all_halve);
#pragma unroll
    for (int i = 0; i < 16; ++i) v[tile][i] -= by;
  }
}

// The weights of the warp's page, if it has one in this round, for the team. v: of the lane's 16 keys.
template <int VD, int kPairs, int kTiles>
__device__ __forceinline__ void share_weights(const Team<VD, kPairs>& team, bool some, const PageTerms& terms,
                                              int lane, float (&v)[kTiles][16], TeamState<VD, kPairs>& state,
                                              uint4* weights) {
  constexpr int kWarps = Team<VD, kPairs>::kWarps;
  int& until_carried = state[0].until_carried;  // of all tiles
  const bool carries = until_carried < kWarps, halves = until_carried < 0;
  until_carried -= kWarps;
  bool moves = carries;
  float largest[kTiles];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    largest[tile] = some ? largest_size<WideTile>(v[tile], terms.log_norms, lane) : kExcluded;
    moves |= largest[tile] > state[tile].most;
  }
  __syncwarp();  // the keys are read
#pragma unroll 1
  while (true) {
    float l[kTiles];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) l[tile] = state[tile].l;
    if (some) put_weights(v, terms.value_norms, lane, l, weights);
    async_proxy_fence();
    if (!team.any(moves)) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) state[tile].l = l[tile];
      return;
    }
    move_references(team, largest, halves, lane, v, state);
    if (carries) {
      bool full = false;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) full |= is_full(state[tile]);
      until_carried = __any_sync(~0u, full) ? -1 : kCarryPages - kWarps;
    }
    moves = false;
  }
}

// The pages of a team in a round.
struct TeamPages {
  const std::uint8_t* first;  // stage
  int n, stride, value_at;
};

// o += w V of the warp's dims, over all pages of the round (decode_values.cuh has units and products).
template <int B, int VD, int kPairs>
__device__ __forceinline__ void add_team_values(const Team<VD, kPairs>& team, const TeamPages& pages,
                                                const Luts& luts, int lane, TeamState<VD, kPairs>& state) {
  const std::uint8_t* stage = pages.first;
#pragma unroll 1
  for (int k = 0; k < pages.n; ++k) {
    const uint4* weights = reinterpret_cast<const uint4*>(stage) + lane;
    const std::uint8_t* unit = stage + pages.value_at + team.part * (128 * B);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t w[B], r[8];
      load_words<B>(unit + half * (VD / 32 * 128 * B), lane, w);
      expand<B>(w, luts, r);
#pragma unroll
      for (int tile = 0; tile < Span<kPairs>::kTiles; ++tile) {
        const uint4 a = weights[(2 * tile + half) * 32];
        WideTile::add_unit(state[tile].o, {a.x, a.y, a.z, a.w}, r);
      }
    }
    stage += pages.stride;
  }
}

}  // namespace gtq::cuda
