// The delta rewrite and the reading of states on a CPU. Compiled once per instruction set level, each in the namespace
// DDL_LEVEL.
//
// No function of the standard library that has a body in a header is called here: each level would emit its own copy
// under one name, and the linker might keep the one that the processor cannot run. Hence <math.h> and <stdlib.h>.
#include "cpu_compress.h"
#include "cpu_gate.h"
#include "cpu_rewrite.h"
#include "cpu_scratch.h"
#include "cpu_strips.h"
#include "cpu_vectors.h"
#include "delta.h"

namespace ddl::DDL_LEVEL {

const char* Compute(const DeltaArgs& args, const Execution& execution);

namespace {

constexpr std::int64_t kChunkBytes = 192 * 1024;  // of state: long enough to pay for a task, short enough to balance
constexpr std::int64_t kTapsChunkBytes = 384 * 1024;  // longer: a chunk's first tokens are read a second time
// From here on a new state apart from the old one goes past the caches: smaller ones are better kept for who comes
// next.
constexpr std::int64_t kStreamBytes = 16 * 1024 * 1024;

constexpr char kOutOfMemory[] = "out of memory";

// Computes the tokens [begin, end); `row` has room for one token's x.
using Routine = void (*)(const Call& call, std::int64_t begin, std::int64_t end, float* row);

struct Routines {
  Routine rewrite;
  Routine rewrite_compress;
  Routine compress;
};

template <class T, int kChannels>
constexpr Routines kDense = {RewriteDense<T, kChannels, false>, RewriteDense<T, kChannels, true>,
                             CompressDense<T, kChannels>};
template <class T>
constexpr Routines kDenseUpTo8[] = {kDense<T, 1>, kDense<T, 2>, kDense<T, 3>, kDense<T, 4>,
                                    kDense<T, 5>, kDense<T, 6>, kDense<T, 7>, kDense<T, 8>};
template <class T>
constexpr Routines kStrips = {RewriteStrips<T, false>, RewriteStrips<T, true>, CompressStrips<T>};

// One call, cut into chunks of tokens: `per_group` of them in each group of `tokens` tokens.
struct Work {
  Call call;
  Routines routines;
  std::int64_t tokens;
  std::int64_t per_group;
  std::int64_t before;  // tokens before its own that a token's x is made of; 0 unless the call rewrites them first
  bool needs_row;
  bool out_of_memory;  // in any task
};

struct Range64 {
  std::int64_t group_begin;
  std::int64_t begin;
  std::int64_t end;
};

Range64 FindChunk(const Work& work, std::size_t index) {
  const auto chunk = static_cast<std::int64_t>(index);
  const std::int64_t group = chunk / work.per_group;
  const std::int64_t place = chunk % work.per_group;
  const std::int64_t each = work.tokens / work.per_group;
  const std::int64_t longer = work.tokens % work.per_group;  // the first chunks take one token more
  const std::int64_t group_begin = group * work.tokens;
  const std::int64_t begin = group_begin + place * each + (place < longer ? place : longer);
  return {group_begin, begin, begin + each + (place < longer ? 1 : 0)};
}

// Returns false, and leaves the reason, where a row is needed and there is no memory.
bool GetRow(Work& work, float** row) {
  *row = work.needs_row ? row_scratch.Get(static_cast<std::size_t>(work.call.args->width)) : nullptr;
  if (!work.needs_row || *row) return true;
  __atomic_store_n(&work.out_of_memory, true, __ATOMIC_RELAXED);
  return false;
}

void RunChunk(void* user, std::size_t index) {
  Work& work = *static_cast<Work*>(user);
  const Range64 chunk = FindChunk(work, index);
  float* row;
  if (!GetRow(work, &row)) return;
  const DeltaArgs& args = *work.call.args;
  if (!args.rewrite) return work.routines.compress(work.call, chunk.begin, chunk.end, row);
  if (!work.before) {
    const Routine routine = args.compress ? work.routines.rewrite_compress : work.routines.rewrite;
    routine(work.call, chunk.begin, chunk.end, row);
    if (work.call.stream) FinishStreams();
    return;
  }
  // A token is compressed as soon as those before it are rewritten, while they are near.
  const std::int64_t first = chunk.begin == chunk.group_begin ? chunk.begin : chunk.begin + work.before;
  for (std::int64_t token = chunk.begin; token < chunk.end; token += kBatch) {
    const std::int64_t end = token + kBatch < chunk.end ? token + kBatch : chunk.end;
    work.routines.rewrite(work.call, token, end, row);
    work.routines.compress(work.call, token < first ? first : token, end, row);
  }
}

// Compresses a chunk's first tokens, which also read the chunk before.
void RunChunkBorder(void* user, std::size_t index) {
  Work& work = *static_cast<Work*>(user);
  const Range64 chunk = FindChunk(work, index);
  float* row;
  if (chunk.begin == chunk.group_begin || !GetRow(work, &row)) return;
  const std::int64_t end = chunk.begin + work.before < chunk.end ? chunk.begin + work.before : chunk.end;
  work.routines.compress(work.call, chunk.begin, end, row);
}

const char* RunAll(Work& work, Execution::Task task, std::int64_t count, const Execution& execution) {
  if (count == 1) {
    task(&work, 0);
  } else if (!execution.parallel_for(execution.pool, task, static_cast<std::size_t>(count), &work)) {
    return "the thread pool refused";
  }
  return work.out_of_memory ? kOutOfMemory : nullptr;
}

template <class T>
const char* ComputeTyped(const DeltaArgs& args, const Execution& execution) {
  const std::int64_t token_size = args.width * args.value_channels;
  const std::int64_t token_bytes = token_size * static_cast<std::int64_t>(sizeof(T));
  const std::int64_t tokens = args.rows * args.tokens;
  if (tokens == 0) return nullptr;
  Work work = {};
  work.call.args = &args;
  work.routines =
      args.value_channels >= 1 && args.value_channels <= 8 ? kDenseUpTo8<T>[args.value_channels - 1] : kStrips<T>;
  work.needs_row = args.compress && sizeof(T) != sizeof(float);
  if (args.compress) {
    const Compress& compress = *args.compress;
    if (args.rewrite) work.before = compress.taps - 1;
    work.call.compress_weight = static_cast<const float*>(compress.weight);
    if (sizeof(T) != sizeof(float) || compress.taps > 1) {
      float* packed = weight_scratch.Get(static_cast<std::size_t>(token_size * compress.taps));
      if (!packed && token_size) return kOutOfMemory;
      PackWeight(At<T>(compress.weight, 0), token_size, compress.taps, packed);
      work.call.compress_weight = packed;
    }
  }
  if (args.rewrite && !work.before) {
    const void* to = args.rewrite->new_state;
    work.call.stream = to && to != args.state && tokens * token_bytes >= kStreamBytes &&
                       token_bytes % static_cast<std::int64_t>(sizeof(Packed<T>)) == 0 &&
                       reinterpret_cast<std::uintptr_t>(to) % sizeof(Packed<T>) == 0;
  }

  const std::int64_t groups = work.before ? args.rows : 1;
  work.tokens = work.before ? args.tokens : tokens;
  const std::int64_t chunk_bytes = work.before ? kTapsChunkBytes : kChunkBytes;
  const std::int64_t per_chunk = token_bytes < chunk_bytes / 2 ? chunk_bytes / (token_bytes > 0 ? token_bytes : 1) : 1;
  work.per_group = (work.tokens + per_chunk - 1) / per_chunk;
  const char* error = RunAll(work, RunChunk, groups * work.per_group, execution);
  if (error || !work.before || work.per_group == 1) return error;
  return RunAll(work, RunChunkBorder, groups * work.per_group, execution);
}

}  // namespace

const char* Compute(const DeltaArgs& args, const Execution& execution) {
  DeltaArgs wanted = args;
  if (wanted.compress && !wanted.compress->compressed && !wanted.compress->context) wanted.compress = nullptr;
  if (!wanted.rewrite && !wanted.compress) return nullptr;
  switch (wanted.type) {
    case Type::kFloat32:
      return ComputeTyped<float>(wanted, execution);
    case Type::kFloat16:
      return ComputeTyped<Half>(wanted, execution);
    case Type::kBFloat16:
      return ComputeTyped<BFloat>(wanted, execution);
  }
  return "the type is unknown";
}

}  // namespace ddl::DDL_LEVEL
