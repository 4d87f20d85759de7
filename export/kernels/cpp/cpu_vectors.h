// Vectors as wide as the registers of the instruction set level that this file is compiled for.
//
// Part of delta_cpu.cc: everything is inline and local to its namespace, so that no level shares code with another.
#pragma once

namespace ddl::DDL_LEVEL {
namespace {

#define DDL_INLINE inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Mask = int __attribute__((vector_size(kLanes * sizeof(int))));

// One instruction each, at any address.
DDL_INLINE Vector Load(const float* from) {
  Vector value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}
DDL_INLINE void Store(float* to, Vector value) { __builtin_memcpy(to, &value, sizeof(value)); }

// Adds the upper half of `kCount` values to the lower until `kLeft` are left: value l ends in l % kLeft.
template <int kCount, int kLeft>
DDL_INLINE void Fold(float* values) {
  if constexpr (kCount > kLeft) {
    for (int l = 0; l < kCount / 2; ++l) values[l] += values[l + kCount / 2];
    Fold<kCount / 2, kLeft>(values);
  }
}

template <int... kValues>
struct Sequence {};
template <int kCount, int... kValues>
struct MakeSequence : MakeSequence<kCount - 1, kCount - 1, kValues...> {};
template <int... kValues>
struct MakeSequence<0, kValues...> {
  using Type = Sequence<kValues...>;
};
template <int kCount>
using Range = typename MakeSequence<kCount>::Type;

// kLanes rows of the state are kChannels vectors. Vector `kPart` holds at lane l the row (kPart * kLanes + l) /
// kChannels and the channel (kPart * kLanes + l) % kChannels; Spread puts each row's value of k on its lanes.
template <int kChannels, int kPart, int... kLane>
DDL_INLINE Vector SpreadLanes(Vector k, Sequence<kLane...>) {
#ifdef __clang__
  return __builtin_shufflevector(k, k, ((kPart * kLanes + kLane) / kChannels)...);
#else
  constexpr Mask kRows = {((kPart * kLanes + kLane) / kChannels)...};
  return __builtin_shuffle(k, kRows);
#endif
}

template <int kChannels, int kPart>
DDL_INLINE Vector Spread(Vector k) {
  if constexpr (kChannels == 1) return k;
  return SpreadLanes<kChannels, kPart>(k, Range<kLanes>{});
}

template <int kChannels, int... kPart>
DDL_INLINE void ReadRows(const float* state, Vector k, Vector* sums, Sequence<kPart...>) {
  ((sums[kPart] += Load(state + kPart * kLanes) * Spread<kChannels, kPart>(k)), ...);
}

template <int kChannels, int... kPart>
DDL_INLINE void WriteRows(const float* state, Vector k, const Vector* steps, float* new_state, Sequence<kPart...>) {
  (Store(new_state + kPart * kLanes, Load(state + kPart * kLanes) + steps[kPart] * Spread<kChannels, kPart>(k)), ...);
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
