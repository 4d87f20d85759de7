// How a call is carried out on a card: which kernel, on how many threads, with how much memory of the block.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "cuda_any.h"
#include "cuda_call.h"
#include "cuda_registers.h"

namespace ddl::cuda {

// What matters of a card.
struct Limits {
  int processors;
  std::size_t shared_per_block;  // the most that a launch can ask for
  std::size_t shared_per_processor;
};

struct Plan {
  Call call;
  bool in_registers;  // else AnyShape
  unsigned blocks;
  unsigned threads;
  std::size_t shared_bytes;
};

constexpr std::int64_t kMostBlocks = 0x7fffffff;
constexpr std::int64_t kMostOffset = 0x7fffffff;
constexpr std::size_t kReservedShared = 1024;  // of each block

inline std::int64_t DivideUp(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

inline bool IsAligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

inline std::size_t SizeOf(Type type) { return type == Type::kFloat32 ? 4 : 2; }

// Whether the state and what is as wide can be moved 16 bytes at a time by a kernel for these channels.
inline bool HasVectors(const Call& call, int vector) {
  const std::int64_t channels = call.value_channels;
  if (channels != 1 && channels != 2 && channels != 4 && channels != 8) return false;
  if (call.width % RowsOfPack(static_cast<int>(channels), vector) != 0) return false;
  const Rewrite& rewrite = call.rewrite;
  const Compress& compress = call.compress;
  for (const void* pointer :
       {call.state, rewrite.direction, static_cast<const void*>(rewrite.new_state), compress.history, compress.weight,
        compress.norm_weight, static_cast<const void*>(compress.compressed),
        static_cast<const void*>(compress.context)}) {
    if (!IsAligned(pointer)) return false;
  }
  return true;
}

// Shares the items out to blocks that keep the state in registers; returns false where it does not fit there.
inline bool PlanRegisters(Type type, const Limits& limits, Plan* plan) {
  Call& call = plan->call;
  const int vector = 16 / static_cast<int>(SizeOf(type));
  if (call.width == 0 || !HasVectors(call, vector)) return false;
  const int channels = static_cast<int>(call.value_channels);
  const std::int64_t packs = call.width / RowsOfPack(channels, vector);
  const std::int64_t warps = DivideUp(packs, PacksOfThread(channels, vector) * kWarp);
  // Offsets within a token and a row are 32 bits there.
  const std::int64_t longest = std::max(call.rewrite.gate_width, call.rewrite.target_width * channels);
  if (longest > kMostOffset || (call.reads == Reads::kTokens && call.tokens > kMostOffset)) return false;
  if (warps * kWarp > MostThreads(channels, call.reads == Reads::kTokens)) return false;
  const std::int64_t teams = warps == 1 ? 4 : 1;

  call.packs = static_cast<unsigned>(packs);
  call.team_warps = static_cast<int>(warps);
  call.context_vectors =
      call.rewrite.gate_width % vector == 0 && IsAligned(call.rewrite.context) && IsAligned(call.rewrite.gate_weight);
  call.target_vectors = call.rewrite.target_width % vector == 0 && IsAligned(call.rewrite.target_input) &&
                        IsAligned(call.rewrite.target_weight);
  call.scratch_floats = warps == 1 ? 0 : static_cast<unsigned>(DivideUp(2 * warps * MostSums(channels), 4) * 4);
  plan->in_registers = true;
  plan->threads = static_cast<unsigned>(teams * warps * kWarp);
  plan->shared_bytes = call.scratch_floats * sizeof(float);
  if (call.reads != Reads::kTokens) {
    // More blocks than fit at once, so that none runs dry, and each with few tokens, so that all end at about one time.
    const std::int64_t wanted = DivideUp(call.items, teams);
    const std::int64_t at_once = static_cast<std::int64_t>(limits.processors) * 32;
    plan->blocks = static_cast<unsigned>(std::min({wanted, std::max(at_once, DivideUp(wanted, 8)), kMostBlocks}));
    return true;
  }

  const std::int64_t taps = call.compress.taps;
  const std::int64_t partials = DivideUp(teams * taps * call.width, 4) * 4;
  const std::size_t with_partials = plan->shared_bytes + partials * sizeof(float);
  const std::size_t with_weights = with_partials + call.width * channels * taps * SizeOf(type);
  if (with_partials > limits.shared_per_block) return false;
  call.partials_floats = static_cast<unsigned>(partials);
  call.weights_staged = with_weights <= limits.shared_per_block;
  plan->shared_bytes = call.weights_staged ? with_weights : with_partials;
  // Each block once, with a run as long as that makes it: a run pays for the tokens before it and for the weights.
  const std::int64_t fit = std::min<std::int64_t>(
      MostThreads(channels, true) / plan->threads,
      static_cast<std::int64_t>(limits.shared_per_processor / (plan->shared_bytes + kReservedShared)));
  const std::int64_t at_once = limits.processors * std::max<std::int64_t>(fit, 1);
  const std::int64_t even = DivideUp(call.rows * call.tokens, at_once * teams);
  call.run = std::min(std::max(even, taps), call.tokens);
  call.runs = DivideUp(call.tokens, call.run);
  call.items = call.rows * call.runs;
  plan->blocks = static_cast<unsigned>(std::min(DivideUp(call.items, teams), at_once));
  return true;
}

// Returns null, or why the call cannot be carried out. There is at least one token.
inline const char* MakePlan(const DeltaArgs& args, const Limits& limits, Plan* plan) {
  *plan = {};
  Call& call = plan->call;
  call.state = args.state;
  call.rewrites = args.rewrite != nullptr;
  if (args.rewrite) call.rewrite = *args.rewrite;
  call.reads = !args.compress ? Reads::kNothing : args.compress->taps > 1 ? Reads::kTokens : Reads::kChannels;
  if (args.compress) call.compress = *args.compress;
  call.compress.taps = std::max<std::int64_t>(call.compress.taps, 1);
  call.rows = args.rows;
  call.tokens = args.tokens;
  call.width = args.width;
  call.value_channels = args.value_channels;
  if (call.reads == Reads::kTokens && call.rewrites && call.rewrite.new_state == call.state) {
    return "on CUDA a rewrite that compresses over tokens cannot run in place: it reads the states before it again";
  }
  if (call.reads != Reads::kTokens) {  // one row of all tokens
    call.tokens *= call.rows;
    call.rows = 1;
  }
  call.run = 1;
  call.runs = call.tokens;
  call.items = call.rows * call.tokens;
  if (PlanRegisters(args.type, limits, plan)) return nullptr;

  plan->in_registers = false;
  plan->threads = kAnyThreads;
  call.team_warps = kAnyThreads / kWarp;
  call.scratch_floats = 2 * call.team_warps * kAnyMostSums;
  const std::int64_t at_once = static_cast<std::int64_t>(limits.processors) * 8;
  if (call.reads == Reads::kTokens) {
    call.run = std::min(std::max(DivideUp(call.items, at_once), call.compress.taps), call.tokens);
    call.runs = DivideUp(call.tokens, call.run);
    call.items = call.rows * call.runs;
  }
  plan->blocks = static_cast<unsigned>(std::min({call.items, at_once * 4, kMostBlocks}));
  plan->shared_bytes =
      (call.scratch_floats + (call.rewrites ? call.compress.taps * (1 + call.value_channels) : 0)) * sizeof(float);
  if (plan->shared_bytes > limits.shared_per_block) {
    return "the state has more value channels than a block of the CUDA kernel has memory for";
  }
  return nullptr;
}

using Kernel = void (*)(Call);

template <typename T, int kChannels>
Kernel KernelForChannels(const Call& call) {
  if (call.reads == Reads::kTokens) {
    return call.rewrites ? RunsInRegisters<T, kChannels, true> : RunsInRegisters<T, kChannels, false>;
  }
  if (!call.rewrites) return TokensInRegisters<T, kChannels, false, true>;
  return call.reads == Reads::kChannels ? TokensInRegisters<T, kChannels, true, true>
                                        : TokensInRegisters<T, kChannels, true, false>;
}

template <typename T>
Kernel KernelOf(const Plan& plan) {
  if (!plan.in_registers) return AnyShape<T>;
  switch (plan.call.value_channels) {
    case 1:
      return KernelForChannels<T, 1>(plan.call);
    case 2:
      return KernelForChannels<T, 2>(plan.call);
    case 4:
      return KernelForChannels<T, 4>(plan.call);
    default:
      return KernelForChannels<T, 8>(plan.call);
  }
}

}  // namespace ddl::cuda
