// What decides a token's rewrite before its state is touched: the length of the direction, the gate, the target.
// Part of delta_cpu.cc.
#pragma once

#include <math.h>

#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {
namespace {

// One call, with what is worked out once for all its tokens.
struct Call {
  const DeltaArgs* args;
  const float* compress_weight;  // (taps, d, dv); null without compression
  bool stream;                   // the new state goes past the caches
};

template <class T>
DDL_INLINE const T* At(const void* base, std::int64_t index) {
  return static_cast<const T*>(base) + index;
}
template <class T>
DDL_INLINE T* At(void* base, std::int64_t index) {
  return static_cast<T*>(base) + index;
}

// Vectors per sum and step, so that there are at least four chains.
constexpr int Unroll(int sums) { return sums >= 4 ? 1 : 4 / sums; }

// Tokens that share the loads of a weight: as many as the sums of four rows leave registers for.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTile = 4;
#else
constexpr int kTile = 2;
#endif

DDL_INLINE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// `products[t * kRows + j]` = row j of `rows` times token t of `x`.
template <class T, int kTokens, int kRows>
DDL_NOINLINE void DotRows(const T* x, const T* rows, std::int64_t width, float* products) {
  constexpr int kUnroll = Unroll(kRows);
  constexpr int kSums = kTokens * kRows;
  Vector sums[kUnroll * kSums] = {};
  const auto add = [&](std::int64_t i, Vector* to) {
    Vector values[kTokens];
    for (int t = 0; t < kTokens; ++t) values[t] = Load(x + t * width + i);
    for (int j = 0; j < kRows; ++j) {
      const Vector weight = Load(rows + j * width + i);
      for (int t = 0; t < kTokens; ++t) to[t * kRows + j] += values[t] * weight;
    }
  };
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= width; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) add(i + u * kLanes, sums + u * kSums);
  }
  for (; i + kLanes <= width; i += kLanes) add(i, sums);
  for (int s = 0; s < kSums; ++s) {
    for (int u = 1; u < kUnroll; ++u) sums[s] += sums[u * kSums + s];
    products[s] = SumLanes(sums[s]);
  }
  for (; i < width; ++i) {
    for (int t = 0; t < kTokens; ++t) {
      for (int j = 0; j < kRows; ++j) {
        products[t * kRows + j] += Widen(x[t * width + i]) * Widen(rows[j * width + i]);
      }
    }
  }
}

template <class T>
DDL_NOINLINE float SquareSum(const T* x, std::int64_t width) {
  constexpr int kUnroll = Unroll(1);
  Vector sums[kUnroll] = {};
  std::int64_t i = 0;
  for (; i + kUnroll * kLanes <= width; i += kUnroll * kLanes) {
    for (int u = 0; u < kUnroll; ++u) {
      const Vector value = Load(x + i + u * kLanes);
      sums[u] += value * value;
    }
  }
  for (; i + kLanes <= width; i += kLanes) {
    const Vector value = Load(x + i);
    sums[0] += value * value;
  }
  for (int u = 1; u < kUnroll; ++u) sums[0] += sums[u];
  float sum = SumLanes(sums[0]);
  for (; i < width; ++i) sum += Widen(x[i]) * Widen(x[i]);
  return sum;
}

constexpr std::int64_t kBatch = 8;  // tokens that are worked on together

// Asks for a part of the memory of tokens that come next, `size` numbers each: the processor looks up its pages and
// starts to fetch it on its own, which it does not do across the border of a page. To ask for all of it is slower than
// not to ask at all. Inlined in any case: for g++ a function without a result that only asks does nothing at all.
template <class T>
DDL_INLINE void AnnounceTokens(const void* memory, std::int64_t size, std::int64_t token, std::int64_t count) {
  constexpr std::int64_t kStep = 1024;
  const auto bytes = static_cast<std::int64_t>(sizeof(T)) * size;
  const char* begin = static_cast<const char*>(memory) + token * bytes;
  for (std::int64_t i = 0; i < count * bytes; i += kStep) __builtin_prefetch(begin + i, 0, 2);
}

// What a token's channels share: k = direction * inverse_length, and the gate with its factors.
struct Gate {
  float inverse_length;
  float beta;
  float erase;
  float write;
};

DDL_INLINE Gate Overridden(const Override& by, float inverse_length, float beta) {
  float changed = by.scale == 0 ? by.shift : by.scale * beta + by.shift;
  changed = changed < by.low ? by.low : changed;  // false for NaN, which stays
  changed = changed > by.high ? by.high : changed;
  return {inverse_length, changed, by.erase, by.write};
}

template <class T, int kTokens>
DDL_NOINLINE void OpenGates(const DeltaArgs& args, std::int64_t token, Gate* gates) {
  const Rewrite& rewrite = *args.rewrite;
  float logits[kTokens];
  DotRows<T, kTokens, 1>(At<T>(rewrite.context, token * rewrite.gate_width), At<T>(rewrite.gate_weight, 0),
                         rewrite.gate_width, logits);
  for (int t = 0; t < kTokens; ++t) {
    const std::int64_t current = token + t;
    const float square = SquareSum(At<T>(rewrite.direction, current * args.width), args.width);
    const float logit = logits[t] + Widen(*At<T>(rewrite.gate_bias, 0));
    Gate gate = {1.0f / sqrtf(square + rewrite.direction_eps * rewrite.direction_eps), 2.0f * Sigmoid(logit), 1, 1};
    if (rewrite.overrides) {
      gate = Overridden(rewrite.overrides[rewrite.override_count == 1 ? 0 : current], gate.inverse_length, gate.beta);
    }
    if (!rewrite.erases) gate.erase = 0;
    if (rewrite.beta) rewrite.beta[current] = gate.beta;
    if (rewrite.gate_logit) rewrite.gate_logit[current] = logit;
    if (rewrite.direction_norm) rewrite.direction_norm[current] = sqrtf(square);
    gates[t] = gate;
  }
}

// Computes the targets of the channels [first, first + kChannels): `targets[t * kChannels + j]`.
template <class T, int kTokens, int kChannels>
DDL_NOINLINE void FindTargets(const DeltaArgs& args, std::int64_t token, std::int64_t first, float* targets) {
  constexpr int kFirst = kChannels < 4 ? kChannels : 4;  // more at a time would not fit into 16 registers
  constexpr int kRest = kChannels - kFirst;
  const Rewrite& rewrite = *args.rewrite;
  const std::int64_t width = rewrite.target_width;
  const T* input = At<T>(rewrite.target_input, token * width);
  const T* weight = At<T>(rewrite.target_weight, first * width);
  float products[kTokens * kFirst];
  DotRows<T, kTokens, kFirst>(input, weight, width, products);
  for (int t = 0; t < kTokens; ++t) {
    for (int j = 0; j < kFirst; ++j) targets[t * kChannels + j] = products[t * kFirst + j];
  }
  if constexpr (kRest > 0) {
    float rest[kTokens * kRest];
    DotRows<T, kTokens, kRest>(input, weight + kFirst * width, width, rest);
    for (int t = 0; t < kTokens; ++t) {
      for (int j = 0; j < kRest; ++j) targets[t * kChannels + kFirst + j] = rest[t * kRest + j];
    }
  }
  const T* bias = At<T>(rewrite.target_bias, first);
  for (int t = 0; t < kTokens; ++t) {
    for (int j = 0; j < kChannels; ++j) {
      float& target = targets[t * kChannels + j];
      target += Widen(bias[j]);
      if (rewrite.target_scale > 0) target = rewrite.target_scale * Sigmoid(target);
      if (rewrite.target) rewrite.target[(token + t) * args.value_channels + first + j] = target;
    }
  }
}

// Turns the readout of the channels [first, first + kChannels) into the steps towards their target.
template <int kChannels>
DDL_INLINE void TurnIntoStep(const DeltaArgs& args, std::int64_t token, std::int64_t first, const Gate& gate,
                             const float* target, float* readout) {
  for (int j = 0; j < kChannels; ++j) {
    if (args.rewrite->readout) args.rewrite->readout[token * args.value_channels + first + j] = readout[j];
    const float wanted = gate.write == 0 ? 0.0f : gate.write * target[j];
    readout[j] = gate.beta * (gate.erase == 0 ? wanted : wanted - gate.erase * readout[j]);
  }
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
