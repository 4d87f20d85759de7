// The delta rewrite on an NVIDIA card: one launch, one pass over the state in global memory.
//
// A block takes a token at a time. Where the token fits into the registers of a block, each thread keeps its rows there
// between readout and rewrite and moves them 16 bytes at a time; any other shape runs on a kernel that reads the state
// twice, the second time mostly from the cache. Nothing waits for the card, so a launch can be recorded in a graph.
#include <cuda_runtime.h>

#include "delta.h"

namespace ddl {
namespace {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;
constexpr int kMaxWarps = kMaxThreads / kWarp;
constexpr int kPreferredThreads = 256;
constexpr int kStrip = 4;                         // channels that the kernel for any shape takes at a time
constexpr std::int64_t kBlocksPerProcessor = 32;  // more than fit at once, so that none runs dry

// Reads kCount adjacent floats, 16 bytes at a time where they are that many; `from` is aligned to fit.
template <int kCount>
__device__ __forceinline__ void Load(const float* from, float (&values)[kCount]) {
  static_assert(kCount == 1 || kCount == 2 || kCount % 4 == 0);
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      values[i] = four.x;
      values[i + 1] = four.y;
      values[i + 2] = four.z;
      values[i + 3] = four.w;
    }
  } else if constexpr (kCount == 2) {
    const float2 two = *reinterpret_cast<const float2*>(from);
    values[0] = two.x;
    values[1] = two.y;
  } else {
    values[0] = *from;
  }
}

// The intrinsic is an ordinary store that stays whole: the compiler splits a plain float4 store where registers are
// few.
template <int kCount>
__device__ __forceinline__ void Store(float* to, const float (&values)[kCount]) {
  static_assert(kCount % 4 == 0);
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    __stwb(reinterpret_cast<float4*>(to + i), make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
  }
}

// Replaces each value by its sum over the block. `shared` holds kCount values per warp; between two calls with the same
// `shared` there must be another barrier.
template <int kCount>
__device__ __forceinline__ void BlockSum(float (&values)[kCount], float* shared) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
#pragma unroll
    for (int offset = kWarp / 2; offset > 0; offset /= 2) values[i] += __shfl_xor_sync(~0u, values[i], offset);
  }
  if (threadIdx.x % kWarp == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) shared[threadIdx.x / kWarp * kCount + i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) values[i] = 0;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  for (int warp = 0; warp < warps; ++warp) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] += shared[warp * kCount + i];
  }
}

__device__ __forceinline__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ __forceinline__ float InverseLength(const DeltaArgs& args, float square) {
  return 1.0f / sqrtf(square + args.direction_eps * args.direction_eps);
}

// Writes what the token has once; returns beta.
__device__ __forceinline__ float OpenGate(const DeltaArgs& args, std::int64_t token, float square, float product) {
  const float logit = product + args.gate_bias[0];
  const float beta = 2.0f * Sigmoid(logit);
  if (threadIdx.x == 0) {
    if (args.beta) args.beta[token] = beta;
    if (args.gate_logit) args.gate_logit[token] = logit;
    if (args.direction_norm) args.direction_norm[token] = sqrtf(square);
  }
  return beta;
}

// Writes what the token has per channel; returns the step of the channel's readout towards its target.
__device__ __forceinline__ float StepToTarget(const DeltaArgs& args, std::int64_t token, std::int64_t channel,
                                              float beta, float product, float readout) {
  float target = product + args.target_bias[channel];
  if (args.target_scale > 0) target = args.target_scale * Sigmoid(target);
  if (threadIdx.x == 0) {
    if (args.target) args.target[token * args.value_channels + channel] = target;
    if (args.readout) args.readout[token * args.value_channels + channel] = readout;
  }
  return beta * (target - readout);
}

__host__ __device__ constexpr int RowsPerThread(int channels) { return channels >= 4 ? 1 : 4 / channels; }

// Each thread takes RowsPerThread rows per round, at least 16 bytes of state.
template <int kChannels, int kRounds>
__global__ void __launch_bounds__(kMaxThreads) RewriteInRegisters(const DeltaArgs args) {
  constexpr int kRows = RowsPerThread(kChannels);
  constexpr int kSums = 1 + 2 * kChannels;  // gate product, target products, readout
  __shared__ float shared_square[kMaxWarps];
  __shared__ float shared_sums[kMaxWarps * kSums];
  const std::int64_t width = args.width;

  for (std::int64_t token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    const float* state = args.state + token * width * kChannels;
    float* new_state = args.new_state + token * width * kChannels;
    float rows[kRounds][kRows * kChannels];
    float k[kRounds][kRows];  // the raw direction until its length is known
    float square[1] = {};
    float sums[kSums] = {};
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::int64_t row = (threadIdx.x + static_cast<std::int64_t>(round) * blockDim.x) * kRows;
      if (row >= width) continue;
      float context[kRows], target_input[kRows], weight[kRows];
      Load(state + row * kChannels, rows[round]);
      Load(args.direction + token * width + row, k[round]);
      Load(args.context + token * width + row, context);
      Load(args.target_input + token * width + row, target_input);
      Load(args.gate_weight + row, weight);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        square[0] += k[round][r] * k[round][r];
        sums[0] += context[r] * weight[r];
      }
#pragma unroll
      for (int j = 0; j < kChannels; ++j) {
        Load(args.target_weight + j * width + row, weight);
#pragma unroll
        for (int r = 0; r < kRows; ++r) sums[1 + j] += target_input[r] * weight[r];
      }
    }
    BlockSum(square, shared_square);
    const float inverse_length = InverseLength(args, square[0]);
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::int64_t row = (threadIdx.x + static_cast<std::int64_t>(round) * blockDim.x) * kRows;
      if (row >= width) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        k[round][r] *= inverse_length;
#pragma unroll
        for (int j = 0; j < kChannels; ++j) sums[1 + kChannels + j] += k[round][r] * rows[round][r * kChannels + j];
      }
    }
    BlockSum(sums, shared_sums);
    const float beta = OpenGate(args, token, square[0], sums[0]);
    float step[kChannels];
#pragma unroll
    for (int j = 0; j < kChannels; ++j) {
      step[j] = StepToTarget(args, token, j, beta, sums[1 + j], sums[1 + kChannels + j]);
    }
#pragma unroll
    for (int round = 0; round < kRounds; ++round) {
      const std::int64_t row = (threadIdx.x + static_cast<std::int64_t>(round) * blockDim.x) * kRows;
      if (row >= width) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int j = 0; j < kChannels; ++j) rows[round][r * kChannels + j] += k[round][r] * step[j];
      }
      Store(new_state + row * kChannels, rows[round]);
    }
  }
}

// Any width, any number of channels, any alignment.
__global__ void __launch_bounds__(kPreferredThreads) RewriteAnyShape(const DeltaArgs args) {
  __shared__ float shared_gate[kMaxWarps * 2];
  __shared__ float shared_sums[kMaxWarps * 2 * kStrip];
  const std::int64_t width = args.width;
  const std::int64_t channels = args.value_channels;

  for (std::int64_t token = blockIdx.x; token < args.tokens; token += gridDim.x) {
    const float* direction = args.direction + token * width;
    const float* state = args.state + token * width * channels;
    float* new_state = args.new_state + token * width * channels;
    float gate[2] = {};  // square, gate product
    for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
      gate[0] += direction[i] * direction[i];
      gate[1] += args.context[token * width + i] * args.gate_weight[i];
    }
    BlockSum(gate, shared_gate);
    const float inverse_length = InverseLength(args, gate[0]);
    const float beta = OpenGate(args, token, gate[0], gate[1]);

    for (std::int64_t first = 0; first < channels; first += kStrip) {
      const int strip = static_cast<int>(channels - first < kStrip ? channels - first : kStrip);
      float sums[2 * kStrip] = {};  // target products, readout
      for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        const float k = direction[i] * inverse_length;
        const float target_input = args.target_input[token * width + i];
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {
          if (j >= strip) continue;
          sums[j] += target_input * args.target_weight[(first + j) * width + i];
          sums[kStrip + j] += k * state[i * channels + first + j];
        }
      }
      __syncthreads();  // the strip before may still be reading
      BlockSum(sums, shared_sums);
      float step[kStrip];
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        step[j] = j < strip ? StepToTarget(args, token, first + j, beta, sums[j], sums[kStrip + j]) : 0;
      }
      for (std::int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        const float k = direction[i] * inverse_length;
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {
          if (j < strip) new_state[i * channels + first + j] = state[i * channels + first + j] + k * step[j];
        }
      }
    }
    __syncthreads();  // without channels nothing else parts two tokens
  }
}

bool IsAligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % sizeof(float4) == 0; }

// Whether every group of rows of every tensor starts where a vector of its size may.
bool CanLoadVectors(const DeltaArgs& args) {
  return args.width % RowsPerThread(static_cast<int>(args.value_channels)) == 0 && IsAligned(args.state) &&
         IsAligned(args.new_state) && IsAligned(args.direction) && IsAligned(args.context) &&
         IsAligned(args.target_input) && IsAligned(args.gate_weight) && IsAligned(args.target_weight);
}

// Threads of a block that takes `groups` groups of rows in `rounds` rounds: whole warps.
std::int64_t Threads(std::int64_t groups, int rounds) {
  const std::int64_t per_warp = static_cast<std::int64_t>(rounds) * kWarp;
  return (groups + per_warp - 1) / per_warp * kWarp;
}

// Returns whether a kernel for this shape was launched.
template <int kChannels>
bool LaunchInRegisters(const DeltaArgs& args, unsigned blocks, cudaStream_t stream) {
  const std::int64_t groups = args.width / RowsPerThread(kChannels);
  if (groups == 0 || Threads(groups, 4) > kMaxThreads || !CanLoadVectors(args)) return false;
  if (Threads(groups, 1) <= kPreferredThreads) {
    RewriteInRegisters<kChannels, 1><<<blocks, static_cast<unsigned>(Threads(groups, 1)), 0, stream>>>(args);
  } else if (Threads(groups, 2) <= kPreferredThreads) {
    RewriteInRegisters<kChannels, 2><<<blocks, static_cast<unsigned>(Threads(groups, 2)), 0, stream>>>(args);
  } else {
    RewriteInRegisters<kChannels, 4><<<blocks, static_cast<unsigned>(Threads(groups, 4)), 0, stream>>>(args);
  }
  return true;
}

bool LaunchByChannels(const DeltaArgs& args, unsigned blocks, cudaStream_t stream) {
  switch (args.value_channels) {
    case 1:
      return LaunchInRegisters<1>(args, blocks, stream);
    case 2:
      return LaunchInRegisters<2>(args, blocks, stream);
    case 4:
      return LaunchInRegisters<4>(args, blocks, stream);
    case 8:
      return LaunchInRegisters<8>(args, blocks, stream);
    default:
      return false;
  }
}

const char* Rewrite(const DeltaArgs& args, const Execution& execution) {
  if (args.tokens == 0) return nullptr;
  int device = 0;
  int processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  const std::int64_t most = processors * kBlocksPerProcessor;
  const auto blocks = static_cast<unsigned>(args.tokens < most ? args.tokens : most);
  const auto stream = static_cast<cudaStream_t>(execution.stream);
  if (!LaunchByChannels(args, blocks, stream)) RewriteAnyShape<<<blocks, kPreferredThreads, 0, stream>>>(args);
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const Backend& CudaBackend() {
  static constexpr Backend kBackend = {"cuda", "CUDAExecutionProvider", Rewrite};
  return kBackend;
}

}  // namespace ddl
