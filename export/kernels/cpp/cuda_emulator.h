// Runs CUDA kernels on the CPU, to test them where there is no card: what they use of CUDA, and a launcher.
//
// Each thread of a block is a fiber; one runs at a time. A thread runs on until it waits for others: at a shuffle for
// those of its warp, at a barrier for those of its block. Warps run as far ahead of each other as the barriers allow,
// in either order, so that a missing barrier shows. Memory of the block starts as NaN, vectors must be aligned, and
// threads that wait for each other in different places end the program with a message.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DDL_DEVICE inline

struct alignas(8) float2 {
  float x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

namespace emulator {

struct Index {
  unsigned x;
};

// What the running thread knows of itself.
struct Place {
  Index thread, block, block_size, grid_size;
};
extern Place place;

enum class Order { kAscending, kDescending };

// Runs `thread` for every thread of every block.
void Launch(unsigned blocks, unsigned threads, std::size_t shared_bytes, Order order,
            const std::function<void()>& thread);

void* Shared();
void Barrier();

// Gives each lane what lane `source` of its warp brought.
std::uint32_t Exchange(std::uint32_t bits, int source);

void RequireAligned(const void* pointer, std::size_t size);

inline std::uint32_t Bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline float Float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline int Lane() { return static_cast<int>(place.thread.x % 32); }

// A source beyond the warp: the lane keeps its own value.
inline float Shuffle(float value, int source) {
  return Float(Exchange(Bits(value), source < 0 || source > 31 ? Lane() : source));
}

std::uint32_t HalfBits(float value);
float HalfValue(std::uint32_t bits);
std::uint32_t BFloatBits(float value);

template <typename T>
T Read(const T* from) {
  RequireAligned(from, sizeof(T));
  return *from;
}
template <typename T>
void Write(T* to, T value) {
  RequireAligned(to, sizeof(T));
  *to = value;
}

}  // namespace emulator

#define threadIdx emulator::place.thread
#define blockIdx emulator::place.block
#define blockDim emulator::place.block_size
#define gridDim emulator::place.grid_size

inline void __syncthreads() { emulator::Barrier(); }
inline float __shfl_sync(unsigned, float value, int lane) { return emulator::Shuffle(value, lane & 31); }
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  return emulator::Shuffle(value, emulator::Lane() ^ mask);
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __shfl_down_sync(unsigned, float value, int by) { return emulator::Shuffle(value, emulator::Lane() + by); }
inline int __any_sync(unsigned, int predicate) {
  std::uint32_t any = predicate != 0;
  for (int mask = 16; mask > 0; mask /= 2) any |= emulator::Exchange(any, emulator::Lane() ^ mask);
  return static_cast<int>(any);
}
inline float __uint_as_float(unsigned bits) { return emulator::Float(bits); }
inline unsigned __float_as_uint(float value) { return emulator::Bits(value); }
template <typename T>
T __ldcg(const T* from) {
  return emulator::Read(from);
}
template <typename T>
void __stwb(T* to, T value) {
  emulator::Write(to, value);
}

namespace ddl::cuda {

inline float2 HalvesToFloats(unsigned word) {
  return {emulator::HalfValue(word & 0xffff), emulator::HalfValue(word >> 16)};
}
inline unsigned FloatsToHalves(float low, float high) {
  return emulator::HalfBits(low) | emulator::HalfBits(high) << 16;
}
inline unsigned FloatsToBFloats(float low, float high) {
  return emulator::BFloatBits(low) | emulator::BFloatBits(high) << 16;
}
inline void Prefetch(const void*) {}
inline void* DynamicShared() { return emulator::Shared(); }

}  // namespace ddl::cuda
