// The kernels that keep a token's state in registers, from its load to its store.
//
// What must be moved for a token, in rows of d numbers: state in and out 2 dv; direction, context and target input 3;
// what it is compressed to and its norm 2. That is 20 kB for d 768, dv 4 in bfloat16, 61 % of it state, and twice that
// in float32; the weights stay in the first-level cache, 15 kB in bfloat16. An H200 hides 0.8 us of latency at 4.8 TB/s
// with 29 kB on their way in each processor. With 96 registers a thread there are 20 warps, and 10 such tokens in
// bfloat16 or 5 in float32, of which 107 kB are loaded at once, before anything is waited for. A token takes about 3100
// instructions of a warp in bfloat16 and 3800 in float32, 63 % and 40 % of what a processor issues in the time that its
// bytes take.
#pragma once

#include "cuda_rewrite.h"
#include "cuda_window.h"

namespace ddl::cuda {

// x of a token for its rows, from the state in registers.
template <typename T, int kChannels>
DDL_DEVICE void CompressChannels(const Call& call, const Team& team,
                                 const typename Layout<T, kChannels>::State (&state)[Layout<T, kChannels>::kPacks],
                                 float (&x)[Layout<T, kChannels>::kPacks][Layout<T, kChannels>::kRows]) {
  using L = Layout<T, kChannels>;
  const T* const weights = static_cast<const T*>(call.compress.weight);
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack >= call.packs) continue;
    typename L::State weight;
    float values[L::kValues], factors[L::kValues];
    weight.LoadWeights(weights + pack * L::kValues);
    weight.ToFloats(factors);
    state[p].ToFloats(values);
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) {
      x[p][r] = 0;
#pragma unroll
      for (int j = 0; j < kChannels; ++j) x[p][r] += factors[r * kChannels + j] * values[r * kChannels + j];
    }
  }
}

// Writes x of a token, and x brought to a mean square of 1. `get(p, pack, x)`: x of the rows of the thread's p-th pack.
template <typename T, int kChannels, typename Get>
DDL_DEVICE void WriteCompressed(const Call& call, Team& team, std::int64_t token, Get get) {
  using L = Layout<T, kChannels>;
  float squares[1] = {};
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack >= call.packs) continue;
    float x[L::kRows];
    get(p, pack, x);
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) squares[0] += x[r] * x[r];
  }
  const float inverse_rms = InverseRms(call, Broadcast(team.Sum(squares), 0));
  T* const compressed = static_cast<T*>(call.compress.compressed) + token * call.width;
  T* const context = static_cast<T*>(call.compress.context) + token * call.width;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack >= call.packs) continue;
    typename L::Rows rows;
    float x[L::kRows];
    get(p, pack, x);
    if (call.compress.compressed) {
      rows.FromFloats(x);
      rows.Store(compressed + pack * L::kRows);
    }
    if (call.compress.context) {
      float norm[L::kRows];
      rows.LoadWeights(static_cast<const T*>(call.compress.norm_weight) + pack * L::kRows);
      rows.ToFloats(norm);
#pragma unroll
      for (int r = 0; r < L::kRows; ++r) x[r] *= inverse_rms * norm[r];
      rows.FromFloats(x);
      rows.Store(context + pack * L::kRows);
    }
  }
}

template <typename T, int kChannels>
DDL_DEVICE void LoadState(const Call& call, const Team& team, const T* from,
                          typename Layout<T, kChannels>::State (&state)[Layout<T, kChannels>::kPacks]) {
  using L = Layout<T, kChannels>;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack < call.packs) state[p].Load(from + pack * L::kValues);
  }
}

template <typename T, int kChannels>
DDL_DEVICE void PrefetchState(const Call& call, const Team& team, const T* from) {
  using L = Layout<T, kChannels>;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack < call.packs) Prefetch(from + pack * L::kValues);
  }
}

// A token at a time.
template <typename T, int kChannels, bool kRewrites, bool kReads>
__global__ void __launch_bounds__(MostThreads(kChannels, false)) TokensInRegisters(const Call call) {
  using L = Layout<T, kChannels>;
  Team team(call.team_warps, static_cast<float*>(DynamicShared()), L::kMostSums);
  const unsigned teams = team.warps == 1 ? blockDim.x / kWarp : 1;
  const unsigned own = team.warps == 1 ? threadIdx.x / kWarp : 0;
  const std::int64_t size = call.width * kChannels;
  for (std::int64_t token = static_cast<std::int64_t>(blockIdx.x) * teams + own; token < call.items;
       token += static_cast<std::int64_t>(gridDim.x) * teams) {
    typename L::State state[L::kPacks];
    LoadState<T, kChannels>(call, team, static_cast<const T*>(call.state) + token * size, state);
    if constexpr (kRewrites) RewriteState<T, kChannels>(call, team, token, true, state);
    if constexpr (kReads) {
      float x[L::kPacks][L::kRows];
      CompressChannels<T, kChannels>(call, team, state, x);
      WriteCompressed<T, kChannels>(call, team, token, [&x](int p, unsigned, float (&rows)[L::kRows]) {
#pragma unroll
        for (int r = 0; r < L::kRows; ++r) rows[r] = x[p][r];
      });
    }
  }
}

// A run of tokens of one row at a time, and before it the tokens that its first ones look back on.
template <typename T, int kChannels, bool kRewrites>
__global__ void __launch_bounds__(MostThreads(kChannels, true)) RunsInRegisters(const Call call) {
  using L = Layout<T, kChannels>;
  const int taps = static_cast<int>(call.compress.taps);
  const std::int64_t size = call.width * kChannels;
  float* const scratch = static_cast<float*>(DynamicShared());
  Team team(call.team_warps, scratch, L::kMostSums);
  const unsigned teams = team.warps == 1 ? blockDim.x / kWarp : 1;
  const unsigned own = team.warps == 1 ? threadIdx.x / kWarp : 0;
  const unsigned staged = call.scratch_floats + call.partials_floats;
  if (call.weights_staged) {
    StageWeights(static_cast<const T*>(call.compress.weight), static_cast<unsigned>(size), taps,
                 reinterpret_cast<T*>(scratch + staged));
    __syncthreads();
  }
  Window<T, kChannels> window(call, call.scratch_floats + own * taps * static_cast<unsigned>(call.width), staged);

  for (std::int64_t item = static_cast<std::int64_t>(blockIdx.x) * teams + own; item < call.items;
       item += static_cast<std::int64_t>(gridDim.x) * teams) {
    const Span span = SpanOf(call, item);
    const std::int64_t row_start = span.row * call.tokens;
    const auto place_of = [&](int t) {
      if (t >= 0) return static_cast<const T*>(call.state) + (row_start + t) * size;
      return static_cast<const T*>(call.compress.history) + ((span.row + 1) * (taps - 1) + t) * size;
    };
    const auto first = static_cast<int>(span.first);
    const auto end = static_cast<int>(span.end);
    for (auto t = static_cast<int>(span.begin); t <= first; ++t) {  // or each would be waited for in turn
      PrefetchState<T, kChannels>(call, team, place_of(t));
    }
    for (auto t = static_cast<int>(span.begin); t < end; ++t) {
      typename L::State state[L::kPacks];
      LoadState<T, kChannels>(call, team, place_of(t), state);
      if constexpr (kRewrites) {
        if (t >= 0) RewriteState<T, kChannels>(call, team, row_start + t, t >= first, state);
      }
      window.Add(team, state);
      if (t < first) continue;
      WriteCompressed<T, kChannels>(call, team, row_start + t, [&window](int, unsigned pack, float (&rows)[L::kRows]) {
        window.Compressed(pack, rows);
      });
    }
  }
}

}  // namespace ddl::cuda
