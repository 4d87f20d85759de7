// Memory of a thread that grows to the largest call and stays. Part of delta_cpu.cc.
#pragma once

#include <stdlib.h>

#include "cpu_vectors.h"

namespace ddl::DDL_LEVEL {
namespace {

class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { free(memory_); }

  // Returns room for `count` numbers, what was in it is lost; null where there is no memory.
  float* Get(std::size_t count) {
    if (count > count_) {
      free(memory_);
      memory_ = static_cast<float*>(malloc(count * sizeof(float)));
      count_ = memory_ ? count : 0;
    }
    return memory_;
  }

 private:
  float* memory_ = nullptr;
  std::size_t count_ = 0;
};

thread_local Scratch row_scratch;     // one token's x
thread_local Scratch weight_scratch;  // the compression's weight, of the calling thread

// Writes `weight` (size, taps) as float32 (taps, size).
template <class T, int kTaps>
void PackTaps(const T* weight, std::int64_t size, float* packed) {
  static_assert(kTaps == 1 || kTaps == 2 || kTaps == 4);
  std::int64_t i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    Vector values[4];
    for (int p = 0; p < kTaps; ++p) values[p] = Load(weight + i * kTaps + p * kLanes);
    if constexpr (kTaps == 2) {
      const Vector even = Even(values[0], values[1]);
      values[1] = Odd(values[0], values[1]);
      values[0] = even;
    }
    if constexpr (kTaps == 4) {
      const Vector even[] = {Even(values[0], values[1]), Even(values[2], values[3])};
      const Vector odd[] = {Odd(values[0], values[1]), Odd(values[2], values[3])};
      values[0] = Even(even[0], even[1]);
      values[1] = Even(odd[0], odd[1]);
      values[2] = Odd(even[0], even[1]);
      values[3] = Odd(odd[0], odd[1]);
    }
    for (int p = 0; p < kTaps; ++p) Store(packed + p * size + i, values[p]);
  }
  for (; i < size; ++i) {
    for (int p = 0; p < kTaps; ++p) packed[p * size + i] = Widen(weight[i * kTaps + p]);
  }
}

template <class T>
void PackWeight(const T* weight, std::int64_t size, std::int64_t taps, float* packed) {
  if (taps == 1) return PackTaps<T, 1>(weight, size, packed);
  if (taps == 2) return PackTaps<T, 2>(weight, size, packed);
  if (taps == 4) return PackTaps<T, 4>(weight, size, packed);
  for (std::int64_t p = 0; p < taps; ++p) {
    for (std::int64_t i = 0; i < size; ++i) packed[p * size + i] = Widen(weight[i * taps + p]);
  }
}

}  // namespace
}  // namespace ddl::DDL_LEVEL
