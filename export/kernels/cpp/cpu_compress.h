// The reading of a state for a sublayer: products with the weight over channels and taps, and the norm.
// Part of delta_cpu.cc.
#pragma once

#include <math.h>

#include "cpu_gate.h"
#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {
namespace {

// Returns where a token's x is kept in float32 until it is normalised: among the outputs if they are float32, else in
// `row`.
template <class T>
DDL_INLINE float* CompressedRow(const DeltaArgs& args, std::int64_t token, float* row) {
  if constexpr (sizeof(T) == sizeof(float)) {
    void* output = args.compress->compressed ? args.compress->compressed : args.compress->context;
    if (output) return At<float>(output, token * args.width);
  }
  return row;
}

// Writes a token's x and its norm to the outputs.
template <class T>
DDL_NOINLINE void NormRow(const DeltaArgs& args, std::int64_t token, const float* x) {
  const Compress& compress = *args.compress;
  const std::int64_t width = args.width;
  const bool kept = sizeof(T) == sizeof(float);  // x is already where it belongs
  T* compressed = compress.compressed && !kept ? At<T>(compress.compressed, token * width) : nullptr;
  T* context = compress.context ? At<T>(compress.context, token * width) : nullptr;
  const T* norm = At<T>(compress.norm_weight, 0);
  const float scale = 1.0f / sqrtf(SquareSum(x, width) / static_cast<float>(width) + compress.norm_eps);
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vector value = Load(x + i);
    if (compressed) Store(compressed + i, value);
    if (context) Store(context + i, value * scale * Load(norm + i));
  }
  for (; i < width; ++i) {
    const float value = x[i];
    if (compressed) Narrow(value, compressed + i);
    if (context) Narrow(value * scale * Widen(norm[i]), context + i);
  }
}

// The states that a token's x is made of, `history_count` of them before the row's first token; each group dense.
template <class T>
struct Taps {
  const T* history;
  std::int64_t history_count;
  const T* state;
  std::int64_t count;
};

template <class T>
DDL_INLINE Taps<T> FindTaps(const DeltaArgs& args, std::int64_t token) {
  const Compress& compress = *args.compress;
  const std::int64_t size = args.width * args.value_channels;
  const void* state = args.rewrite ? args.rewrite->new_state : args.state;
  const std::int64_t before = compress.taps - 1;
  const std::int64_t index = before ? token % args.tokens : 0;  // in its row
  const std::int64_t own = index < before ? index : before;     // tokens of the same row before this one
  const std::int64_t missing = before - own;
  const T* history = missing ? At<T>(compress.history, (token / args.tokens * before + index) * size) : nullptr;
  return {history, missing, At<T>(state, (token - own) * size), compress.taps};
}

// Adds the products of kLanes rows of one state.
template <class T, int kChannels, int... kPart>
DDL_INLINE void AddProducts(const T* state, const float* weight, Vector* sums, Sequence<kPart...>) {
  ((sums[kPart] += Load(state + kPart * kLanes) * Load(weight + kPart * kLanes)), ...);
}

template <class T, int kChannels>
DDL_NOINLINE void CompressToken(const Taps<T>& taps, const float* weight, std::int64_t width, float* x) {
  const std::int64_t size = width * kChannels;
  const std::int64_t own = taps.count - taps.history_count;
  const float* own_weight = weight + taps.history_count * size;
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Vector sums[kChannels] = {};
    for (std::int64_t p = 0; p < taps.history_count; ++p) {
      const std::int64_t at = p * size + i * kChannels;
      AddProducts<T, kChannels>(taps.history + at, weight + at, sums, Range<kChannels>{});
    }
    for (std::int64_t p = 0; p < own; ++p) {
      const std::int64_t at = p * size + i * kChannels;
      AddProducts<T, kChannels>(taps.state + at, own_weight + at, sums, Range<kChannels>{});
    }
    Store(x + i, SumChannels<kChannels>(sums));
  }
  for (; i < width; ++i) {
    x[i] = 0;
    for (std::int64_t p = 0; p < taps.count; ++p) {
      const T* state = p < taps.history_count ? taps.history + p * size : taps.state + (p - taps.history_count) * size;
      for (std::int64_t at = i * kChannels; at < (i + 1) * kChannels; ++at) {
        x[i] += Widen(state[at]) * weight[p * size + at];
      }
    }
  }
}

template <class T, int kChannels>
void CompressDense(const Call& call, std::int64_t begin, std::int64_t end, float* row) {
  const DeltaArgs& args = *call.args;
  const std::int64_t size = args.width * kChannels;
  const std::int64_t all = args.rows * args.tokens;
  for (std::int64_t token = begin; token < end; ++token) {
    const std::int64_t next = token + kBatch;
    if (!args.rewrite && next < all) AnnounceTokens<T>(args.state, size, next, 1);
    float* x = CompressedRow<T>(args, token, row);
    CompressToken<T, kChannels>(FindTaps<T>(args, token), call.compress_weight, args.width, x);
    NormRow<T>(args, token, x);
  }
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
