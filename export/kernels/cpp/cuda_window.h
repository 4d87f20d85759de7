// Compressing over tokens: what a team keeps of the tokens before.
#pragma once

#include "cuda_rewrite.h"

namespace ddl::cuda {

// What the tokens so far contribute to x of the next `taps` tokens, per row; in the block's memory, but each thread
// reads only what it wrote.
template <typename T, int kChannels>
class Window {
 public:
  using L = Layout<T, kChannels>;

  // The team's partial sums and, if there is room, the weights as (taps, d, dv): where they start in the block's
  // memory.
  DDL_DEVICE Window(const Call& call, unsigned partials, unsigned staged)
      : call_(call),
        width_(static_cast<unsigned>(call.width)),
        taps_(static_cast<unsigned>(call.compress.taps)),
        partials_(partials),
        staged_(staged) {}

  // Adds the next token. A run starts `taps` - 1 tokens early, so what is left of the one before never counts.
  DDL_DEVICE void Add(const Team& team, const typename L::State (&state)[L::kPacks]) {
    if (++slot_ == taps_) slot_ = 0;
#pragma unroll
    for (int p = 0; p < L::kPacks; ++p) {
      const unsigned pack = p * team.threads + team.thread;
      if (pack >= call_.packs) continue;
      float values[L::kValues];
      state[p].ToFloats(values);
      unsigned slot = slot_;
#pragma unroll 1
      for (unsigned tap = taps_; tap-- > 0;) {  // 0: of the token that is taps - 1 ahead
        float factors[L::kValues];
        LoadWeights(pack, tap, factors);
        Packed<float, L::kRows> partial;
        float sums[L::kRows] = {};
        float* const place = Place(slot, pack);
        if (tap > 0) {
          partial.LoadShared(place);
          partial.ToFloats(sums);
        }
#pragma unroll
        for (int i = 0; i < L::kValues; ++i) sums[i / kChannels] += factors[i] * values[i];
        partial.FromFloats(sums);
        partial.StoreShared(place);
        if (++slot == taps_) slot = 0;
      }
    }
  }

  // x of the last token that was added.
  DDL_DEVICE void Compressed(unsigned pack, float (&x)[L::kRows]) const {
    Packed<float, L::kRows> sums;
    sums.LoadShared(Place(slot_, pack));
    sums.ToFloats(x);
  }

 private:
  DDL_DEVICE float* Place(unsigned slot, unsigned pack) const {
    return static_cast<float*>(DynamicShared()) + (partials_ + slot * width_ + pack * L::kRows);
  }

  DDL_DEVICE void LoadWeights(unsigned pack, unsigned tap, float (&factors)[L::kValues]) const {
    if (call_.weights_staged) {
      typename L::State weight;
      const T* const staged = reinterpret_cast<const T*>(static_cast<const float*>(DynamicShared()) + staged_);
      weight.LoadShared(staged + (tap * width_ * kChannels + pack * L::kValues));
      weight.ToFloats(factors);
    } else {
      const T* const weights = static_cast<const T*>(call_.compress.weight) + (pack * L::kValues * taps_ + tap);
#pragma unroll
      for (int i = 0; i < L::kValues; ++i) factors[i] = ToFloat(weights[i * taps_]);
    }
  }

  const Call& call_;
  const unsigned width_;
  const unsigned taps_;
  const unsigned partials_;
  const unsigned staged_;
  unsigned slot_ = 0;  // of the last token
};

// Copies the weights (d, dv, taps) as (taps, d, dv): so the weights of a tap lie as the state does.
template <typename T>
DDL_DEVICE void StageWeights(const T* weights, unsigned size, unsigned taps, T* staged) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  constexpr int kLoads = 8;  // on their way at once
  const unsigned count = size * taps;
#pragma unroll 1
  for (unsigned start = threadIdx.x * kVector; start < count; start += kLoads * blockDim.x * kVector) {
    Packed<T, kVector> vectors[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const unsigned at = start + i * blockDim.x * kVector;
      if (at < count) vectors[i].LoadWeights(weights + at);
    }
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const unsigned at = start + i * blockDim.x * kVector;
      if (at >= count) continue;
      float values[kVector];
      vectors[i].ToFloats(values);
      unsigned tap = at % taps;
      unsigned place = at / taps + tap * size;
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        staged[place] = FromFloat<T>(values[e]);
        place += size;
        if (++tap == taps) {
          tap = 0;
          place -= count - 1;
        }
      }
    }
  }
}

}  // namespace ddl::cuda
