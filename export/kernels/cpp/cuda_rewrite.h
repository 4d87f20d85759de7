// The rewrite of one token whose state a team holds in registers.
#pragma once

#include "cuda_team.h"

namespace ddl::cuda {

template <typename T, int kChannels>
struct Layout {
  static constexpr int kRows = RowsOfPack(kChannels, 16 / sizeof(T));
  static constexpr int kValues = kRows * kChannels;
  static constexpr int kPacks = PacksOfThread(kChannels, 16 / sizeof(T));
  static constexpr int kMostSums = MostSums(kChannels);

  using State = Packed<T, kValues>;
  using Rows = Packed<T, kRows>;
};

// A few vectors of a token's row of inputs. They are loaded long before they are used.
template <typename T, int kVectors>
class Stretch {
 public:
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));

  DDL_DEVICE void Load(const Team& team, const T* row, unsigned start, unsigned width) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const unsigned at = start + (i * team.threads + team.thread) * kVector;
      if (at < width) vectors_[i].Load(row + at);
    }
  }

  // sums[j] += this part of the row times the j-th row of `weights`.
  template <int kCount>
  DDL_DEVICE void AddProducts(const Team& team, const T* weights, unsigned start, unsigned width, float* sums) const {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      const unsigned at = start + (i * team.threads + team.thread) * kVector;
      if (at >= width) continue;
      float values[kVector];
      vectors_[i].ToFloats(values);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        Packed<T, kVector> vector;
        float factors[kVector];
        vector.LoadWeights(weights + (j * width + at));
        vector.ToFloats(factors);
#pragma unroll
        for (int e = 0; e < kVector; ++e) sums[j] += values[e] * factors[e];
      }
    }
  }

 private:
  Packed<T, kVector> vectors_[kVectors];
};

// sums[j] += row times the j-th row of `weights`; the first stretch of the row is loaded already, if it can be.
template <int kCount, typename T, int kVectors>
DDL_DEVICE void AddProducts(const Team& team, Stretch<T, kVectors>& stretch, const T* row, const T* weights,
                            unsigned width, bool vectors, float* sums) {
  if (!vectors) {
#pragma unroll 1
    for (unsigned i = team.thread; i < width; i += team.threads) {
      const float value = ToFloat(row[i]);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sums[j] += value * ToFloat(weights[j * width + i]);
    }
    return;
  }
  stretch.template AddProducts<kCount>(team, weights, 0, width, sums);
  const unsigned step = kVectors * team.threads * Stretch<T, kVectors>::kVector;
#pragma unroll 1
  for (unsigned start = step; start < width; start += step) {
    stretch.Load(team, row, start, width);
    stretch.template AddProducts<kCount>(team, weights, start, width, sums);
  }
}

// Sums of k * state per channel, k = direction * inverse_length.
template <typename T, int kChannels>
DDL_DEVICE void AddReadouts(const Call& call, const Team& team, const typename Layout<T, kChannels>::State* state,
                            const typename Layout<T, kChannels>::Rows* direction, float inverse_length, float* sums) {
  using L = Layout<T, kChannels>;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    if (p * team.threads + team.thread >= call.packs) continue;
    float values[L::kValues], h[L::kRows];
    state[p].ToFloats(values);
    direction[p].ToFloats(h);
#pragma unroll
    for (int i = 0; i < L::kValues; ++i) sums[i % kChannels] += h[i / kChannels] * inverse_length * values[i];
  }
}

// Rewrites the token's state in registers, and in memory where the team owns it and it is wanted there.
//
// One round of sums serves the length of the direction, the gate, the targets and the readout, because k^T X is
// h^T X / length. Where that might lose something to overflow or underflow the readout is summed again, from k.
template <typename T, int kChannels>
DDL_DEVICE void RewriteState(const Call& call, Team& team, std::int64_t token, bool owned,
                             typename Layout<T, kChannels>::State (&state)[Layout<T, kChannels>::kPacks]) {
  using L = Layout<T, kChannels>;
  constexpr int kSquare = 2 * kChannels;  // the targets and the readouts come first
  constexpr int kGate = kSquare + 1;
  constexpr int kVectors = (L::kPacks + kChannels - 1) / kChannels;  // of inputs as wide as the state
  const Rewrite& rewrite = call.rewrite;
  const auto gate_width = static_cast<unsigned>(rewrite.gate_width);
  const auto target_width = static_cast<unsigned>(rewrite.target_width);
  const T* const context_row = static_cast<const T*>(rewrite.context) + token * rewrite.gate_width;
  const T* const target_row = static_cast<const T*>(rewrite.target_input) + token * rewrite.target_width;
  const T* const direction_row = static_cast<const T*>(rewrite.direction) + token * call.width;

  typename L::Rows direction[L::kPacks];
  Stretch<T, kVectors> context, target_input;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack < call.packs) direction[p].Load(direction_row + pack * L::kRows);
  }
  if (call.context_vectors) context.Load(team, context_row, 0, gate_width);
  if (call.target_vectors) target_input.Load(team, target_row, 0, target_width);
  float bias = 0;  // of what the lane will have
  if (team.lane < kChannels) bias = ToFloat(static_cast<const T*>(rewrite.target_bias)[team.lane]);
  if (team.lane == kGate) bias = ToFloat(*static_cast<const T*>(rewrite.gate_bias));

  float sums[L::kMostSums] = {};
  AddProducts<1>(team, context, context_row, static_cast<const T*>(rewrite.gate_weight), gate_width,
                 call.context_vectors, sums + kGate);
  AddProducts<kChannels>(team, target_input, target_row, static_cast<const T*>(rewrite.target_weight), target_width,
                         call.target_vectors, sums);
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    if (p * team.threads + team.thread >= call.packs) continue;
    float h[L::kRows];
    direction[p].ToFloats(h);
#pragma unroll
    for (int r = 0; r < L::kRows; ++r) sums[kSquare] += h[r] * h[r];
  }
  AddReadouts<T, kChannels>(call, team, state, direction, 1.0f, sums + kChannels);

  const float total = team.Sum(sums);
  const float square = Broadcast(total, kSquare);
  const float inverse_length = InverseLength(rewrite, square);
  const Gate gate = OpenGate(rewrite, team, token, Broadcast(total + bias, kGate), square, owned);
  // From here on lane j has the target and the readout of channel j.
  const float raw_readout = __shfl_down_sync(kAllLanes, total, kChannels);
  float readout = raw_readout * inverse_length;
  const bool lossy =
      !(inverse_length > 0 && inverse_length < 1e12f) || (team.lane < kChannels && !(fabsf(raw_readout) < kInfinity));
  if (__any_sync(kAllLanes, lossy)) {
    float readouts[kChannels] = {};
    AddReadouts<T, kChannels>(call, team, state, direction, inverse_length, readouts);
    readout = team.Sum(readouts);
  }
  const float lane_step = StepToTarget(rewrite, team, token, kChannels, team.lane, gate, total + bias, readout, owned);
  float step[kChannels];
#pragma unroll
  for (int j = 0; j < kChannels; ++j) step[j] = Broadcast(lane_step, j);

  const bool stored = owned && rewrite.new_state;
  T* const new_state = static_cast<T*>(rewrite.new_state) + token * call.width * kChannels;
#pragma unroll
  for (int p = 0; p < L::kPacks; ++p) {
    const unsigned pack = p * team.threads + team.thread;
    if (pack >= call.packs) continue;
    float values[L::kValues], h[L::kRows];
    state[p].ToFloats(values);
    direction[p].ToFloats(h);
#pragma unroll
    for (int i = 0; i < L::kValues; ++i) values[i] += h[i / kChannels] * inverse_length * step[i % kChannels];
    state[p].FromFloats(values);
    if (stored) state[p].Store(new_state + pack * L::kValues);
  }
}

}  // namespace ddl::cuda
