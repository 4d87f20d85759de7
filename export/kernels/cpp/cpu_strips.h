// Tokens with more than 8 value channels, in strips of 8, 4, 2 and 1 channels. Part of delta_cpu.cc.
#pragma once

#include "cpu_compress.h"
#include "cpu_gate.h"
#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {
namespace {

constexpr int kStripRows = 4;

// Rewrites the channels [first, first + kChannels) of a token. Where `x` is not null, adds what they give to it.
template <class T, int kChannels>
DDL_NOINLINE void RewriteStrip(const Call& call, std::int64_t token, std::int64_t first, const Gate& gate, float* x) {
  const DeltaArgs& args = *call.args;
  const std::int64_t width = args.width;
  const std::int64_t stride = args.value_channels;
  const T* direction = At<T>(args.rewrite->direction, token * width);
  const T* state = At<T>(args.state, token * width * stride + first);
  T* new_state = args.rewrite->new_state ? At<T>(args.rewrite->new_state, token * width * stride + first) : nullptr;

  float sums[kStripRows * kChannels] = {};
  std::int64_t i = 0;
  for (; i + kStripRows <= width; i += kStripRows) {
    for (int row = 0; row < kStripRows; ++row) {
      const float k = Widen(direction[i + row]) * gate.inverse_length;
      for (int j = 0; j < kChannels; ++j) sums[row * kChannels + j] += k * Widen(state[(i + row) * stride + j]);
    }
  }
  Fold<kStripRows * kChannels, kChannels>(sums);
  for (; i < width; ++i) {
    const float k = Widen(direction[i]) * gate.inverse_length;
    for (int j = 0; j < kChannels; ++j) sums[j] += k * Widen(state[i * stride + j]);
  }

  float target[kChannels];
  FindTargets<T, 1, kChannels>(args, token, first, target);
  TurnIntoStep<kChannels>(args, token, first, gate, target, sums);

  for (i = 0; i < width; ++i) {
    const float k = Widen(direction[i]) * gate.inverse_length;
    T row[kChannels];  // read before written: the compiler cannot know that the states are equal or apart
    for (int j = 0; j < kChannels; ++j) Narrow(Widen(state[i * stride + j]) + k * sums[j], row + j);
    if (new_state) {
      for (int j = 0; j < kChannels; ++j) new_state[i * stride + j] = row[j];
    }
    if (x) {
      const float* weight = call.compress_weight + i * stride + first;
      for (int j = 0; j < kChannels; ++j) x[i] += Widen(row[j]) * weight[j];
    }
  }
}

template <class T, bool kCompress>
void RewriteStrips(const Call& call, std::int64_t begin, std::int64_t end, float* row) {
  const DeltaArgs& args = *call.args;
  const std::int64_t channels = args.value_channels;
  for (std::int64_t token = begin; token < end; ++token) {
    float* x = kCompress ? CompressedRow<T>(args, token, row) : nullptr;
    for (std::int64_t i = 0; x && i < args.width; ++i) x[i] = 0;
    Gate gate;
    OpenGates<T, 1>(args, token, &gate);
    std::int64_t first = 0;
    for (; first + 8 <= channels; first += 8) RewriteStrip<T, 8>(call, token, first, gate, x);
    if (channels & 4) RewriteStrip<T, 4>(call, token, first, gate, x);
    if (channels & 2) RewriteStrip<T, 2>(call, token, first + (channels & 4), gate, x);
    if (channels & 1) RewriteStrip<T, 1>(call, token, channels - 1, gate, x);
    if constexpr (kCompress) NormRow<T>(args, token, x);
  }
}

template <class T>
void CompressStrips(const Call& call, std::int64_t begin, std::int64_t end, float* row) {
  const DeltaArgs& args = *call.args;
  const std::int64_t channels = args.value_channels;
  const std::int64_t size = args.width * channels;
  for (std::int64_t token = begin; token < end; ++token) {
    float* x = CompressedRow<T>(args, token, row);
    const Taps<T> taps = FindTaps<T>(args, token);
    for (std::int64_t i = 0; i < args.width; ++i) {
      Vector sums = {};
      float rest = 0;
      for (std::int64_t p = 0; p < taps.count; ++p) {
        const bool early = p < taps.history_count;
        const T* state =
            (early ? taps.history + p * size : taps.state + (p - taps.history_count) * size) + i * channels;
        const float* weight = call.compress_weight + p * size + i * channels;
        std::int64_t j = 0;
        for (; j + kLanes <= channels; j += kLanes) sums += Load(state + j) * Load(weight + j);
        for (; j < channels; ++j) rest += Widen(state[j]) * weight[j];
      }
      x[i] = SumLanes(sums) + rest;
    }
    NormRow<T>(args, token, x);
  }
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
