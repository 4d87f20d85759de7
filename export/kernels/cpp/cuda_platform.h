// What the kernels use of CUDA beyond its language; in the emulated build the same from the test's emulator.
#pragma once

#ifdef DDL_CUDA_EMULATED
#include "cuda_emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstring>

#define DDL_DEVICE __device__ __forceinline__

namespace ddl::cuda {

// Pairs of 16-bit floats in a word, the first in its low half. Rounded to nearest even, beyond the range to infinity.
DDL_DEVICE float2 HalvesToFloats(unsigned word) {
  __half2 halves;
  memcpy(&halves, &word, sizeof(word));
  return __half22float2(halves);
}

DDL_DEVICE unsigned FloatsToHalves(float low, float high) {
  const __half2 halves = __floats2half2_rn(low, high);
  unsigned word;
  memcpy(&word, &halves, sizeof(word));
  return word;
}

DDL_DEVICE unsigned FloatsToBFloats(float low, float high) {
  const __nv_bfloat162 halves = __floats2bfloat162_rn(low, high);
  unsigned word;
  memcpy(&word, &halves, sizeof(word));
  return word;
}

// Starts to bring a line into the second-level cache.
DDL_DEVICE void Prefetch(const void* address) { asm volatile("prefetch.global.L2 [%0];" ::"l"(address)); }

// The memory of the block whose size the launch sets.
DDL_DEVICE void* DynamicShared() {
  extern __shared__ uint4 memory[];
  return memory;
}

}  // namespace ddl::cuda

#endif
