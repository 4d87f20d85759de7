// Threads that work on one token together, and what they do together: sums, and the scalars of a rewrite.
#pragma once

#include "cuda_call.h"
#include "cuda_types.h"

namespace ddl::cuda {

constexpr unsigned kAllLanes = ~0u;
constexpr float kInfinity = __builtin_huge_valf();

__host__ __device__ constexpr int RoundUpToPowerOfTwo(int count) {
  int power = 1;
  while (power < count) power *= 2;
  return power;
}

DDL_DEVICE float Broadcast(float value, int lane) { return __shfl_sync(kAllLanes, value, lane); }

DDL_DEVICE float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

class Team {
 public:
  // `warps`: 1, or all of the block. `scratch`: two buffers of the most sums that are ever taken at once, for each
  // warp; not used by a team of one warp.
  DDL_DEVICE Team(int warps, float* scratch, int most_sums)
      : lane(threadIdx.x % kWarp),
        warp(warps == 1 ? 0 : threadIdx.x / kWarp),
        warps(static_cast<unsigned>(warps)),
        thread(warp * kWarp + lane),
        threads(static_cast<unsigned>(warps) * kWarp),
        scratch_(scratch),
        half_(static_cast<unsigned>(warps * most_sums)) {}

  // Sums each of the values over the team: lane j gets the j-th sum, the same in every warp. All threads must call it.
  //
  // The two buffers take turns: whoever writes to one has passed a barrier after everyone read it.
  template <int kCount>
  DDL_DEVICE float Sum(float (&values)[kCount]) {
    constexpr int kSlots = RoundUpToPowerOfTwo(kCount);
    static_assert(kSlots <= kWarp);
    Gather<kCount, kSlots, kWarp / 2>(values);
    float total = __shfl_sync(kAllLanes, values[0], lane * (kWarp / kSlots) % kWarp);
    if (warps == 1) return total;

    float* const buffer = scratch_ + buffer_ + (lane < kCount ? lane : 0);
    buffer_ ^= half_;
    if (lane < kCount) buffer[warp * kCount] = total;
    __syncthreads();
    total = 0;
#pragma unroll 4
    for (unsigned other = 0; other < warps; ++other) total += buffer[other * kCount];
    return total;
  }

  const unsigned lane;
  const unsigned warp;  // of the team
  const unsigned warps;
  const unsigned thread;  // of the team
  const unsigned threads;

 private:
  // Sums over the warp. Half of the values change lanes at each step, so that all sums take about 2 * kCount exchanges;
  // at the end the lanes that start at j * (kWarp / kSlots) have the j-th sum in values[0].
  template <int kCount, int kSlots, int kMask>
  DDL_DEVICE void Gather(float* values) const {
    if constexpr (kSlots > 1) {
      constexpr int kHalf = kSlots / 2;
      const bool upper = lane & kMask;
#pragma unroll
      for (int i = 0; i < kHalf; ++i) {
        const float low = values[i];
        const float high = i + kHalf < kCount ? values[i + kHalf] : 0.0f;
        values[i] = (upper ? high : low) + __shfl_xor_sync(kAllLanes, upper ? low : high, kMask);
      }
      Gather<kHalf, kHalf, kMask / 2>(values);
    } else if constexpr (kMask > 0) {
      values[0] += __shfl_xor_sync(kAllLanes, values[0], kMask);
      Gather<1, 1, kMask / 2>(values);
    }
  }

  float* const scratch_;
  const unsigned half_;
  unsigned buffer_ = 0;  // where the next one starts
};

// What a rewrite needs of its gate.
struct Gate {
  float beta;
  float erase;
  float write;
};

// `owned`: this team is the one to write the token's outputs.
DDL_DEVICE Gate OpenGate(const Rewrite& rewrite, const Team& team, std::int64_t token, float logit, float square,
                         bool owned) {
  Gate gate = {2.0f * Sigmoid(logit), rewrite.erases ? 1.0f : 0.0f, 1.0f};
  if (rewrite.overrides) {
    const Override& by = rewrite.overrides[rewrite.override_count == 1 ? 0 : token];
    gate.beta = by.scale == 0 ? by.shift : by.scale * gate.beta + by.shift;
    if (gate.beta < by.low) gate.beta = by.low;
    if (gate.beta > by.high) gate.beta = by.high;
    if (rewrite.erases) gate.erase = by.erase;
    gate.write = by.write;
  }
  if (owned && team.thread == 0) {
    if (rewrite.beta) rewrite.beta[token] = gate.beta;
    if (rewrite.gate_logit) rewrite.gate_logit[token] = logit;
    if (rewrite.direction_norm) rewrite.direction_norm[token] = sqrtf(square);
  }
  return gate;
}

DDL_DEVICE float InverseLength(const Rewrite& rewrite, float square) {
  return rsqrtf(square + rewrite.direction_eps * rewrite.direction_eps);
}

// Returns the step of one channel, from its target before the squashing and its readout. Each lane has a channel of its
// own, below `channels` or none.
DDL_DEVICE float StepToTarget(const Rewrite& rewrite, const Team& team, std::int64_t token, std::int64_t channels,
                              std::int64_t channel, const Gate& gate, float target, float readout, bool owned) {
  if (channel >= channels) return 0;
  if (rewrite.target_scale > 0) target = rewrite.target_scale * Sigmoid(target);
  if (owned && team.warp == 0) {
    if (rewrite.target) rewrite.target[token * channels + channel] = target;
    if (rewrite.readout) rewrite.readout[token * channels + channel] = readout;
  }
  const float written = gate.write == 0 ? 0.0f : gate.write * target;
  const float erased = gate.erase == 0 ? 0.0f : gate.erase * readout;
  return gate.beta * (written - erased);
}

DDL_DEVICE Span SpanOf(const Call& call, std::int64_t item) {
  const std::int64_t row = item / call.runs;
  const std::int64_t first = (item - row * call.runs) * call.run;
  const std::int64_t end = first + call.run < call.tokens ? first + call.run : call.tokens;
  return {row, first - (call.compress.taps - 1), first, end};
}

// The factor that makes a compressed token's mean square 1, from the sum of its squares.
DDL_DEVICE float InverseRms(const Call& call, float squares) {
  return rsqrtf(squares / static_cast<float>(call.width) + call.compress.norm_eps);
}

}  // namespace ddl::cuda
