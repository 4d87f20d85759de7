// float16 and bfloat16 in memory, float32 in registers: conversions that round to nearest even and keep NaN.
//
// Part of delta_cpu.cc, as cpu_vectors.h. The formulas work on one number and on vectors alike.
#pragma once

#include <cstdint>

#define DDL_INLINE inline __attribute__((always_inline))
// For loops over a token: inlined wherever they are called, they would make the library five times as large.
#define DDL_NOINLINE __attribute__((noinline))

namespace ddl::DDL_LEVEL {
namespace {

struct Half {
  std::uint16_t bits;
};
struct BFloat {
  std::uint16_t bits;
};

template <class To, class From>
DDL_INLINE To Bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// Word: std::uint32_t or a vector of them; Float: float or a vector of as many. A 16-bit number is in the lower half of
// its word.
template <class Float, class Word>
DDL_INLINE Float FloatOfHalf(Word half) {
  const Word magnitude = half & 0x7fffu;
  // The exponents' biases differ by 112: a product mends that, for subnormal numbers too.
  const Word finite = Bits<Word>(Bits<Float>(magnitude << 13) * 0x1p112f);
  const Word bits = magnitude >= 0x7c00u ? finite | 0x7f800000u : finite;
  return Bits<Float>(bits | (half & 0x8000u) << 16);
}

template <class Word, class Float>
DDL_INLINE Word HalfOfFloat(Float value) {
  const Word bits = Bits<Word>(value);
  const Word magnitude = bits & 0x7fffffffu;
  const Word normal = ((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
  // Beside 0.5 the last bit of a float32 is worth as much as that of a subnormal half: the sum rounds there.
  const Word subnormal = Bits<Word>(Bits<Float>(magnitude) + 0.5f) - 0x3f000000u;
  const Word rounded = magnitude < 0x38800000u ? subnormal : normal;
  const Word limited = rounded > 0x7c00u ? Word{} + 0x7c00u : rounded;
  return (magnitude > 0x7f800000u ? Word{} + 0x7e00u : limited) | (bits >> 16 & 0x8000u);
}

template <class Float, class Word>
DDL_INLINE Float FloatOfBFloat(Word bfloat) {
  return Bits<Float>(bfloat << 16);
}

template <class Word, class Float>
DDL_INLINE Word BFloatOfFloat(Float value) {
  const Word bits = Bits<Word>(value);
  const Word rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded;
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
