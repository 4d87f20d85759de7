// Vectors as wide as the registers of the instruction set level that this file is compiled for.
//
// Part of delta_cpu.cc: everything is inline and local to its namespace, so that no level shares code with another.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu_types.h"

namespace ddl::DDL_LEVEL {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Words = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
using Shorts = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));

// ---- float32 from and to memory of another type ---------------------------------------------------------------------

DDL_INLINE float Widen(float value) { return value; }
DDL_INLINE float Widen(BFloat value) { return FloatOfBFloat<float>(std::uint32_t{value.bits}); }
DDL_INLINE void Narrow(float value, float* to) { *to = value; }
DDL_INLINE void Narrow(float value, BFloat* to) {
  to->bits = static_cast<std::uint16_t>(BFloatOfFloat<std::uint32_t>(value));
}
#ifdef __F16C__
DDL_INLINE float Widen(Half value) { return _cvtsh_ss(value.bits); }
DDL_INLINE void Narrow(float value, Half* to) { to->bits = _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT); }
#else
DDL_INLINE float Widen(Half value) { return FloatOfHalf<float>(std::uint32_t{value.bits}); }
DDL_INLINE void Narrow(float value, Half* to) {
  to->bits = static_cast<std::uint16_t>(HalfOfFloat<std::uint32_t>(value));
}
#endif

// kLanes numbers of type T as they are in memory.
template <class T>
struct Packed {
  Shorts lanes;
};
template <>
struct Packed<float> {
  Vector lanes;
};

// 16 bits to the lower half of 32, and back. g++ 12 takes a dozen instructions for what is one.
DDL_INLINE Words Lengthen(Shorts lanes) {
#if defined(__AVX512F__)
  return Bits<Words>(_mm512_maskz_cvtepu16_epi32(0xffff, Bits<__m256i>(lanes)));
#elif defined(__AVX2__)
  return Bits<Words>(_mm256_cvtepu16_epi32(Bits<__m128i>(lanes)));
#else
  return __builtin_convertvector(lanes, Words);
#endif
}
DDL_INLINE Shorts Shorten(Words lanes) {
#if defined(__AVX512F__)
  return Bits<Shorts>(_mm512_maskz_cvtepi32_epi16(0xffff, Bits<__m512i>(lanes)));
#else
  return __builtin_convertvector(lanes, Shorts);
#endif
}

DDL_INLINE Vector Unpack(Packed<float> packed) { return packed.lanes; }
DDL_INLINE void Pack(Vector value, Packed<float>* packed) { packed->lanes = value; }

DDL_INLINE Vector Unpack(Packed<BFloat> packed) { return FloatOfBFloat<Vector>(Lengthen(packed.lanes)); }
DDL_INLINE void Pack(Vector value, Packed<BFloat>* packed) { packed->lanes = Shorten(BFloatOfFloat<Words>(value)); }

#if defined(__AVX512F__)
DDL_INLINE Vector Unpack(Packed<Half> packed) { return _mm512_maskz_cvtph_ps(0xffff, Bits<__m256i>(packed.lanes)); }
DDL_INLINE void Pack(Vector value, Packed<Half>* packed) {
  packed->lanes = Bits<Shorts>(_mm512_maskz_cvtps_ph(0xffff, value, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
DDL_INLINE Vector Unpack(Packed<Half> packed) { return _mm256_cvtph_ps(Bits<__m128i>(packed.lanes)); }
DDL_INLINE void Pack(Vector value, Packed<Half>* packed) {
  packed->lanes = Bits<Shorts>(_mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__aarch64__)
DDL_INLINE Vector Unpack(Packed<Half> packed) { return vcvt_f32_f16(Bits<float16x4_t>(packed.lanes)); }
DDL_INLINE void Pack(Vector value, Packed<Half>* packed) { packed->lanes = Bits<Shorts>(vcvt_f16_f32(value)); }
#else
DDL_INLINE Vector Unpack(Packed<Half> packed) { return FloatOfHalf<Vector>(Lengthen(packed.lanes)); }
DDL_INLINE void Pack(Vector value, Packed<Half>* packed) { packed->lanes = Shorten(HalfOfFloat<Words>(value)); }
#endif

// One instruction each for float32, at any address.
template <class T>
DDL_INLINE Vector Load(const T* from) {
  Packed<T> packed;
  __builtin_memcpy(&packed, from, sizeof(packed));
  return Unpack(packed);
}
template <class T>
DDL_INLINE void StorePacked(T* to, Packed<T> packed) {
  __builtin_memcpy(to, &packed, sizeof(packed));
}
template <class T>
DDL_INLINE void Store(T* to, Vector value) {
  Packed<T> packed;
  Pack(value, &packed);
  StorePacked(to, packed);
}

// Stores past the caches, where the processor can: `to` is then a multiple of the size.
template <class T>
DDL_INLINE void Stream(T* to, Packed<T> packed) {
#ifdef __AVX512F__
  if constexpr (sizeof(packed) == 64) return _mm512_stream_si512(reinterpret_cast<__m512i*>(to), Bits<__m512i>(packed));
#endif
#ifdef __AVX__
  if constexpr (sizeof(packed) == 32) return _mm256_stream_si256(reinterpret_cast<__m256i*>(to), Bits<__m256i>(packed));
#endif
#ifdef __x86_64__
  if constexpr (sizeof(packed) == 16) return _mm_stream_si128(reinterpret_cast<__m128i*>(to), Bits<__m128i>(packed));
#endif
  StorePacked(to, packed);
}
DDL_INLINE void FinishStreams() {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

// ---- lanes ----------------------------------------------------------------------------------------------------------

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

// Lane l of the result is lane kFrom[l] of `a` and `b` in a row.
template <int... kFrom>
DDL_INLINE Vector Shuffle(Vector a, Vector b) {
#ifdef __clang__
  return __builtin_shufflevector(a, b, kFrom...);
#else
  using Lanes = int __attribute__((vector_size(kLanes * sizeof(int))));
  constexpr Lanes kLanesFrom = {kFrom...};
  return __builtin_shuffle(a, b, kLanesFrom);
#endif
}

// kLanes rows of the state are kChannels vectors. Vector `kPart` holds at lane l the row (kPart * kLanes + l) /
// kChannels and the channel (kPart * kLanes + l) % kChannels; Spread puts each row's value of k on its lanes.
template <int kChannels, int kPart, int... kLane>
DDL_INLINE Vector SpreadLanes(Vector k, Sequence<kLane...>) {
  return Shuffle<((kPart * kLanes + kLane) / kChannels)...>(k, k);
}
template <int kChannels, int kPart>
DDL_INLINE Vector Spread(Vector k) {
  if constexpr (kChannels == 1) return k;
  return SpreadLanes<kChannels, kPart>(k, Range<kLanes>{});
}

// The lanes 2 l + kFirst of `a` and `b` in a row.
template <int kFirst, int... kLane>
DDL_INLINE Vector EverySecond(Vector a, Vector b, Sequence<kLane...>) {
  return Shuffle<(2 * kLane + kFirst)...>(a, b);
}
DDL_INLINE Vector Even(Vector a, Vector b) { return EverySecond<0>(a, b, Range<kLanes>{}); }
DDL_INLINE Vector Odd(Vector a, Vector b) { return EverySecond<1>(a, b, Range<kLanes>{}); }

// Takes into `sum` the lanes that vector `part` has of one channel; those of the vectors before are there already.
constexpr int ChannelLane(int channels, int channel, int part, int lane) {
  const int flat = lane * channels + channel;
  if (flat / kLanes == part) return kLanes + flat % kLanes;
  return part == 1 && flat < kLanes ? flat : lane;
}
template <int kChannels, int kChannel, int kPart, int... kLane>
DDL_INLINE Vector GatherChannel(Vector sum, const Vector* parts, Sequence<kLane...> lanes) {
  if constexpr (kPart < kChannels) {
    sum = Shuffle<ChannelLane(kChannels, kChannel, kPart, kLane)...>(sum, parts[kPart]);
    return GatherChannel<kChannels, kChannel, kPart + 1>(sum, parts, lanes);
  }
  return sum;
}
template <int kChannels, int... kChannel>
DDL_INLINE Vector SumGathered(const Vector* parts, Sequence<kChannel...>) {
  return (GatherChannel<kChannels, kChannel, 1>(parts[0], parts, Range<kLanes>{}) + ...);
}

// Adds the channels of each of kLanes rows: lane l of the result belongs to row l.
template <int kChannels>
DDL_INLINE Vector SumChannels(const Vector* parts) {
  if constexpr (kChannels == 1) {
    return parts[0];
  } else if constexpr (kChannels % 2 == 0) {
    Vector pairs[kChannels / 2];
    for (int i = 0; i < kChannels / 2; ++i) {
      pairs[i] = Even(parts[2 * i], parts[2 * i + 1]) + Odd(parts[2 * i], parts[2 * i + 1]);
    }
    return SumChannels<kChannels / 2>(pairs);
  } else {
    return SumGathered<kChannels>(parts, Range<kChannels>{});
  }
}

// Adds the upper half of `kCount` values to the lower until `kLeft` are left: value l ends in l % kLeft.
template <int kCount, int kLeft>
DDL_INLINE void Fold(float* values) {
  if constexpr (kCount > kLeft) {
    for (int l = 0; l < kCount / 2; ++l) values[l] += values[l + kCount / 2];
    Fold<kCount / 2, kLeft>(values);
  }
}

DDL_INLINE float SumLanes(Vector value) {
  float lanes[kLanes];
  __builtin_memcpy(lanes, &value, sizeof(lanes));
  Fold<kLanes, 1>(lanes);
  return lanes[0];
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
