// Floats of the three types in memory, and groups of them in registers.
#pragma once

#include <cstdint>

#include "cuda_platform.h"

namespace ddl::cuda {

struct Half {
  std::uint16_t bits;
};

struct BFloat16 {
  std::uint16_t bits;
};

// The 32-bit words of registers hold one float, or two 16-bit floats.
template <typename T>
DDL_DEVICE float2 Unpack(unsigned word);
template <>
DDL_DEVICE float2 Unpack<Half>(unsigned word) {
  return HalvesToFloats(word);
}
template <>
DDL_DEVICE float2 Unpack<BFloat16>(unsigned word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}

template <typename T>
DDL_DEVICE unsigned Pack(float low, float high);
template <>
DDL_DEVICE unsigned Pack<Half>(float low, float high) {
  return FloatsToHalves(low, high);
}
template <>
DDL_DEVICE unsigned Pack<BFloat16>(float low, float high) {
  return FloatsToBFloats(low, high);
}

DDL_DEVICE float ToFloat(float value) { return value; }
template <typename T>
DDL_DEVICE float ToFloat(T value) {
  return Unpack<T>(value.bits).x;
}

template <typename T>
DDL_DEVICE T FromFloat(float value) {
  return T{static_cast<std::uint16_t>(Pack<T>(value, 0.0f))};
}
template <>
DDL_DEVICE float FromFloat<float>(float value) {
  return value;
}

// kCount adjacent values as they are in memory, moved 16 bytes at a time where they are that many. Addresses are
// multiples of the smaller of 16 and their size.
template <typename T, int kCount>
class Packed {
 public:
  // Past the first-level cache: what a launch reads once must not push out the weights. Two vectors share their lines,
  // though, and the second is to find them there.
  DDL_DEVICE void Load(const T* from) {
    Move(from, [](const auto* vector) {
      if constexpr (kBytes > 16) return *vector;
      return __ldcg(vector);
    });
  }
  // Nothing may write to such an address during the launch.
  DDL_DEVICE void LoadWeights(const T* from) {
    Move(from, [](const auto* vector) { return *vector; });
  }
  DDL_DEVICE void LoadShared(const T* from) {
    Move(from, [](const auto* vector) { return *vector; });
  }

  // The intrinsic is an ordinary store that stays whole: the compiler splits a plain one where registers are few.
  DDL_DEVICE void Store(T* to) const {
    Move(to, [](auto* vector, auto value) { __stwb(vector, value); });
  }
  DDL_DEVICE void StoreShared(T* to) const {
    Move(to, [](auto* vector, auto value) { *vector = value; });
  }

  DDL_DEVICE void ToFloats(float (&values)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4) {
        values[i] = __uint_as_float(words_[i]);
      } else {
        const float2 two = Unpack<T>(words_[i]);
        values[2 * i] = two.x;
        if constexpr (kCount > 1) values[2 * i + 1] = two.y;
      }
    }
  }
  DDL_DEVICE void FromFloats(const float (&values)[kCount]) {
#pragma unroll
    for (int i = 0; i < kWords; ++i) {
      if constexpr (sizeof(T) == 4) {
        words_[i] = __float_as_uint(values[i]);
      } else {
        words_[i] = Pack<T>(values[2 * i], kCount > 1 ? values[2 * i + (kCount > 1)] : 0.0f);
      }
    }
  }

 private:
  static constexpr int kBytes = kCount * static_cast<int>(sizeof(T));
  static constexpr int kWords = kBytes < 4 ? 1 : kBytes / 4;
  static_assert(kBytes == 2 || kBytes == 4 || kBytes == 8 || kBytes % 16 == 0);

  template <typename Reader>
  DDL_DEVICE void Move(const T* from, Reader read) {
    if constexpr (kBytes % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        const uint4 four = read(reinterpret_cast<const uint4*>(from) + i / 4);
        words_[i] = four.x;
        words_[i + 1] = four.y;
        words_[i + 2] = four.z;
        words_[i + 3] = four.w;
      }
    } else if constexpr (kBytes == 8) {
      const uint2 two = read(reinterpret_cast<const uint2*>(from));
      words_[0] = two.x;
      words_[1] = two.y;
    } else if constexpr (kBytes == 4) {
      words_[0] = read(reinterpret_cast<const unsigned*>(from));
    } else {
      words_[0] = read(reinterpret_cast<const unsigned short*>(from));
    }
  }
  template <typename Writer>
  DDL_DEVICE void Move(T* to, Writer write) const {
    if constexpr (kBytes % 16 == 0) {
#pragma unroll
      for (int i = 0; i < kWords; i += 4) {
        write(reinterpret_cast<uint4*>(to) + i / 4, make_uint4(words_[i], words_[i + 1], words_[i + 2], words_[i + 3]));
      }
    } else if constexpr (kBytes == 8) {
      write(reinterpret_cast<uint2*>(to), make_uint2(words_[0], words_[1]));
    } else if constexpr (kBytes == 4) {
      write(reinterpret_cast<unsigned*>(to), words_[0]);
    } else {
      write(reinterpret_cast<unsigned short*>(to), static_cast<unsigned short>(words_[0]));
    }
  }

  unsigned words_[kWords];
};

}  // namespace ddl::cuda
