// The kernel for any shape and alignment: a block takes a token at a time and reads the state more than once, after the
// first time mostly from the cache.
#pragma once

#include "cuda_team.h"

namespace ddl::cuda {

constexpr int kAnyThreads = 256;
constexpr int kStrip = 4;  // channels that are summed at a time
constexpr int kAnyMostSums = 2 * kStrip;

// The tokens that a block needs at a time: for each of the last `taps` a slot with what is known of its rewrite.
template <typename T>
class TokenWindow {
 public:
  DDL_DEVICE TokenWindow(const Call& call, float* slots)
      : call_(call), taps_(call.reads == Reads::kTokens ? call.compress.taps : 1), slots_(slots) {}

  // Finds out how the token is rewritten.
  DDL_DEVICE void Settle(Team& team, const Span& span, std::int64_t t, bool owned) {
    const Rewrite& rewrite = call_.rewrite;
    const std::int64_t token = span.row * call_.tokens + t;
    const T* const direction = static_cast<const T*>(rewrite.direction) + token * call_.width;
    const T* const state = State(span, t);
    const T* const target_input = static_cast<const T*>(rewrite.target_input) + token * rewrite.target_width;
    const T* const target_weight = static_cast<const T*>(rewrite.target_weight);

    float sums[2] = {};  // square, gate
    for (std::int64_t i = team.thread; i < call_.width; i += team.threads) {
      const float h = ToFloat(direction[i]);
      sums[0] += h * h;
    }
    AddProduct(team, static_cast<const T*>(rewrite.context) + token * rewrite.gate_width,
               static_cast<const T*>(rewrite.gate_weight), rewrite.gate_width, sums + 1);
    const float total = team.Sum(sums);
    const float square = Broadcast(total, 0);
    const float inverse_length = InverseLength(rewrite, square);
    const float gate_bias = ToFloat(*static_cast<const T*>(rewrite.gate_bias));
    const Gate gate = OpenGate(rewrite, team, token, Broadcast(total, 1) + gate_bias, square, owned);
    float* const slot = Slot(t);
    if (team.thread == 0) slot[0] = inverse_length;

    for (std::int64_t first = 0; first < call_.value_channels; first += kStrip) {
      const std::int64_t left = call_.value_channels - first;
      float products[2 * kStrip] = {};  // targets, readouts
#pragma unroll
      for (int j = 0; j < kStrip; ++j) {
        if (j >= left) continue;
        AddProduct(team, target_input, target_weight + (first + j) * rewrite.target_width, rewrite.target_width,
                   products + j);
      }
      for (std::int64_t i = team.thread; i < call_.width; i += team.threads) {
        const float k = ToFloat(direction[i]) * inverse_length;
#pragma unroll
        for (int j = 0; j < kStrip; ++j) {
          if (j < left) products[kStrip + j] += k * ToFloat(state[i * call_.value_channels + first + j]);
        }
      }
      float target = team.Sum(products);
      const float readout = __shfl_down_sync(kAllLanes, target, kStrip);
      const std::int64_t channel = team.lane < kStrip ? first + team.lane : call_.value_channels;
      if (channel < call_.value_channels) target += ToFloat(static_cast<const T*>(rewrite.target_bias)[channel]);
      const float step =
          StepToTarget(rewrite, team, token, call_.value_channels, channel, gate, target, readout, owned);
      if (team.warp == 0 && channel < call_.value_channels) slot[1 + channel] = step;
    }
    __syncthreads();
  }

  // Calls use(j, value) for the value channels of row i of a token, rewritten if the call rewrites.
  template <typename Use>
  DDL_DEVICE void ForRow(const Span& span, std::int64_t t, std::int64_t i, Use use) const {
    const std::int64_t channels = call_.value_channels;
    const T* const row = State(span, t) + i * channels;
    if (!call_.rewrites || t < 0) {
      for (std::int64_t j = 0; j < channels; ++j) use(j, ToFloat(row[j]));
      return;
    }
    const float* const slot = Slot(t);
    const std::int64_t token = span.row * call_.tokens + t;
    const float k = ToFloat(static_cast<const T*>(call_.rewrite.direction)[token * call_.width + i]) * slot[0];
    for (std::int64_t j = 0; j < channels; ++j) {
      use(j, ToFloat(FromFloat<T>(ToFloat(row[j]) + k * slot[1 + j])));
    }
  }

  // x of row i. `written`: the token's new state, if it may have been written over the old one.
  DDL_DEVICE float Compressed(const Span& span, std::int64_t t, std::int64_t i, const T* written) const {
    const std::int64_t channels = call_.value_channels;
    const T* const weights = static_cast<const T*>(call_.compress.weight) + i * channels * taps_;
    float sum = 0;
    if (written) {
      for (std::int64_t j = 0; j < channels; ++j) sum += ToFloat(weights[j]) * ToFloat(written[i * channels + j]);
      return sum;
    }
    for (std::int64_t tap = 0; tap < taps_; ++tap) {
      ForRow(span, t - (taps_ - 1 - tap), i,
             [&](std::int64_t j, float value) { sum += ToFloat(weights[j * taps_ + tap]) * value; });
    }
    return sum;
  }

 private:
  DDL_DEVICE static void AddProduct(const Team& team, const T* row, const T* weights, std::int64_t width, float* sum) {
    for (std::int64_t i = team.thread; i < width; i += team.threads) *sum += ToFloat(row[i]) * ToFloat(weights[i]);
  }

  DDL_DEVICE float* Slot(std::int64_t t) const { return slots_ + t % taps_ * (1 + call_.value_channels); }

  // The state before the rewrite; of the history where t is negative.
  DDL_DEVICE const T* State(const Span& span, std::int64_t t) const {
    const std::int64_t size = call_.width * call_.value_channels;
    if (t < 0) return static_cast<const T*>(call_.compress.history) + ((span.row + 1) * (taps_ - 1) + t) * size;
    return static_cast<const T*>(call_.state) + (span.row * call_.tokens + t) * size;
  }

  const Call& call_;
  const std::int64_t taps_;
  float* const slots_;
};

template <typename T>
__global__ void __launch_bounds__(kAnyThreads) AnyShape(const Call call) {
  float* const scratch = static_cast<float*>(DynamicShared());
  Team team(call.team_warps, scratch, kAnyMostSums);
  TokenWindow<T> window(call, scratch + call.scratch_floats);
  for (std::int64_t item = blockIdx.x; item < call.items; item += gridDim.x) {
    const Span span = SpanOf(call, item);
    for (std::int64_t t = span.begin < 0 ? 0 : span.begin; t < span.end; ++t) {
      const std::int64_t token = span.row * call.tokens + t;
      const bool owned = t >= span.first;
      if (call.rewrites) window.Settle(team, span, t, owned);
      if (!owned) continue;

      T* new_state = nullptr;
      if (call.rewrites && call.rewrite.new_state) {
        new_state = static_cast<T*>(call.rewrite.new_state) + token * call.width * call.value_channels;
        for (std::int64_t i = team.thread; i < call.width; i += team.threads) {
          window.ForRow(span, t, i, [&](std::int64_t j, float value) {
            new_state[i * call.value_channels + j] = FromFloat<T>(value);
          });
        }
      }
      if (call.reads == Reads::kNothing) continue;
      // Over several taps the old states are still there, and the new ones may be another block's to write.
      const T* const written = call.reads == Reads::kChannels ? new_state : nullptr;
      float squares[1] = {};
      for (std::int64_t i = team.thread; i < call.width; i += team.threads) {
        const float x = window.Compressed(span, t, i, written);
        squares[0] += x * x;
      }
      const float inverse_rms = InverseRms(call, Broadcast(team.Sum(squares), 0));
      for (std::int64_t i = team.thread; i < call.width; i += team.threads) {
        const float x = window.Compressed(span, t, i, written);
        const float norm = ToFloat(static_cast<const T*>(call.compress.norm_weight)[i]);
        if (call.compress.compressed)
          static_cast<T*>(call.compress.compressed)[token * call.width + i] = FromFloat<T>(x);
        if (call.compress.context) {
          static_cast<T*>(call.compress.context)[token * call.width + i] = FromFloat<T>(x * inverse_rms * norm);
        }
      }
    }
  }
}

}  // namespace ddl::cuda
