// The rewrite of tokens with 1 to 8 value channels, on whole vectors. Part of delta_cpu.cc.
//
// A token's state is read from memory once: the readout brings it into the first-level cache, the rewrite finds it
// there. Every sum runs in several chains, because one chain of additions would wait for itself; their number depends
// on nothing but the sum's own shape, so a token's result does not depend on its neighbours.
#pragma once

#include <math.h>

#include "cpu_gate.h"
#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {
namespace {

// Writes k^T X of one token to `readout`.
template <class T, int kChannels, int... kPart>
DDL_INLINE void ReadRows(const T* state, Vector k, Vector* sums, Sequence<kPart...>) {
  ((sums[kPart] += Load(state + kPart * kLanes) * Spread<kChannels, kPart>(k)), ...);
}
template <class T, int kChannels>
DDL_NOINLINE void ReadState(const T* state, const T* direction, float inverse_length, std::int64_t width,
                            float* readout) {
  constexpr int kUnroll = Unroll(kChannels);
  constexpr int kSums = kUnroll * kChannels;
  constexpr Range<kChannels> kParts;
  Vector sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= width; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const std::int64_t row = i + u * kLanes;
      const Vector k = Load(direction + row) * inverse_length;
      ReadRows<T, kChannels>(state + row * kChannels, k, sums + u * kChannels, kParts);
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    ReadRows<T, kChannels>(state + i * kChannels, Load(direction + i) * inverse_length, sums, kParts);
  }
  float lanes[kSums * kLanes];
  for (int part = 0; part < kSums; ++part) Store(lanes + part * kLanes, sums[part]);
  Fold<kSums * kLanes, kChannels>(lanes);
  for (int j = 0; j < kChannels; ++j) readout[j] = lanes[j];
  for (; i < width; ++i) {
    const float k = Widen(direction[i]) * inverse_length;
    for (int j = 0; j < kChannels; ++j) readout[j] += k * Widen(state[i * kChannels + j]);
  }
}

// What WriteState does with a new state beside computing it.
struct Destination {
  void* new_state;      // of the token; null: nowhere
  bool stream;          // past the caches
  const float* weight;  // of the compression over channels
  float* compressed;    // x
};

// Computes kLanes rows of the new state and passes them on.
template <class T, int kChannels, bool kCompress, int... kPart>
DDL_INLINE void WriteRows(const T* state, Vector k, const Vector* steps, const Destination& to, std::int64_t row,
                          Sequence<kPart...>) {
  Packed<T> rows[kChannels];
  (Pack(Load(state + row * kChannels + kPart * kLanes) + steps[kPart] * Spread<kChannels, kPart>(k), &rows[kPart]),
   ...);
  T* new_state = static_cast<T*>(to.new_state) + row * kChannels;
  if (to.stream) {
    (Stream(new_state + kPart * kLanes, rows[kPart]), ...);
  } else if (!kCompress || to.new_state) {
    (StorePacked(new_state + kPart * kLanes, rows[kPart]), ...);
  }
  if constexpr (kCompress) {
    const float* weight = to.weight + row * kChannels;
    const Vector products[] = {(Unpack(rows[kPart]) * Load(weight + kPart * kLanes))...};
    Store(to.compressed + row, SumChannels<kChannels>(products));
  }
}

// Writes X + k step^T of one token, and with kCompress its product with the weight.
template <class T, int kChannels, bool kCompress>
DDL_NOINLINE void WriteState(const T* state, const T* direction, float inverse_length, std::int64_t width,
                             const float* step, const Destination& to) {
  constexpr Range<kChannels> kParts;
  float pattern[kChannels * kLanes];
  Vector steps[kChannels];
  for (int lane = 0; lane < kChannels * kLanes; ++lane) pattern[lane] = step[lane % kChannels];
  for (int part = 0; part < kChannels; ++part) steps[part] = Load(pattern + part * kLanes);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    WriteRows<T, kChannels, kCompress>(state, Load(direction + i) * inverse_length, steps, to, i, kParts);
  }
  for (; i < width; ++i) {
    const float k = Widen(direction[i]) * inverse_length;
    float compressed = 0;
    for (int j = 0; j < kChannels; ++j) {
      const std::int64_t at = i * kChannels + j;
      T value;
      Narrow(Widen(state[at]) + k * step[j], &value);
      if (to.new_state) static_cast<T*>(to.new_state)[at] = value;
      if constexpr (kCompress) compressed += Widen(value) * to.weight[at];
    }
    if constexpr (kCompress) to.compressed[i] = compressed;
  }
}

template <class T>
DDL_INLINE void AnnounceRewrite(const DeltaArgs& args, std::int64_t token, std::int64_t count) {
  const Rewrite& rewrite = *args.rewrite;
  AnnounceTokens<T>(args.state, args.width * args.value_channels, token, count);
  AnnounceTokens<T>(rewrite.direction, args.width, token, count);
  AnnounceTokens<T>(rewrite.context, rewrite.gate_width, token, count);
  AnnounceTokens<T>(rewrite.target_input, rewrite.target_width, token, count);
}

// Rewrites a token whose gate and target are known, and with kCompress compresses and normalises it.
template <class T, int kChannels, bool kCompress>
DDL_INLINE void RewriteToken(const Call& call, std::int64_t token, const Gate& gate, const float* target, float* row) {
  const DeltaArgs& args = *call.args;
  const Rewrite& rewrite = *args.rewrite;
  const std::int64_t width = args.width;
  const T* state = At<T>(args.state, token * width * kChannels);
  const T* direction = At<T>(rewrite.direction, token * width);
  float step[kChannels] = {};
  if (rewrite.readout || gate.erase != 0) {
    ReadState<T, kChannels>(state, direction, gate.inverse_length, width, step);
  }
  TurnIntoStep<kChannels>(args, token, 0, gate, target, step);
  if (!kCompress && !rewrite.new_state) return;
  Destination to = {};
  if (rewrite.new_state) to.new_state = At<T>(rewrite.new_state, token * width * kChannels);
  to.stream = call.stream;
  if constexpr (kCompress) {
    to.weight = call.compress_weight;
    to.compressed = CompressedRow<T>(args, token, row);
  }
  WriteState<T, kChannels, kCompress>(state, direction, gate.inverse_length, width, step, to);
  if constexpr (kCompress) NormRow<T>(args, token, to.compressed);
}

// Gates and targets of a batch are computed before its states are touched: the states are then read and written in one
// long stretch, and the weights, which the states push out of the first-level cache, are loaded less often.
template <class T, int kChannels, bool kCompress>
void RewriteDense(const Call& call, std::int64_t begin, std::int64_t end, float* row) {
  const DeltaArgs& args = *call.args;
  const std::int64_t all = args.rows * args.tokens;
  for (std::int64_t token = begin; token < end; token += kBatch) {
    const std::int64_t count = end - token < kBatch ? end - token : kBatch;
    const std::int64_t next = token + count;
    if (next < all) AnnounceRewrite<T>(args, next, all - next < kBatch ? all - next : kBatch);
    Gate gates[kBatch];
    float targets[kBatch * kChannels];
    std::int64_t t = 0;
    for (; t + kTile <= count; t += kTile) {
      OpenGates<T, kTile>(args, token + t, gates + t);
      FindTargets<T, kTile, kChannels>(args, token + t, 0, targets + t * kChannels);
    }
    for (; t < count; ++t) {
      OpenGates<T, 1>(args, token + t, gates + t);
      FindTargets<T, 1, kChannels>(args, token + t, 0, targets + t * kChannels);
    }
    for (t = 0; t < count; ++t) {
      RewriteToken<T, kChannels, kCompress>(call, token + t, gates[t], targets + t * kChannels, row);
    }
  }
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
