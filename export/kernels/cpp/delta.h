// The delta rewrite and the reading of a state as every backend computes them: arguments, execution, one signature.
//
// A state X is (rows, tokens, d, dv): width d, dv value channels, everything dense and row-major. One call rewrites the
// states of all tokens, or reads them for a sublayer (compress and norm), or does both in one pass over memory.
// The formulas and the meaning of each tensor are those of export/ops/contract.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ddl {

// Of the state and of every other tensor that is a `void*` here. Sums are float32 whatever the type.
enum class Type : int { kFloat32, kFloat16, kBFloat16 };

// What an override says of one token's rewrite.
struct Override {
  float scale;  // beta becomes (scale == 0 ? shift : scale * beta + shift), cut to [low, high]; NaN stays NaN
  float shift;
  float low;
  float high;
  float erase;  // factor of the readout in the step; at 0 the readout does not count, not even a NaN
  float write;  // factor of the target, likewise
};

// X' = X + k step^T with k = h / sqrt(|h|^2 + direction_eps^2), step = beta (write v - erase k^T X). n = rows * tokens.
// Each output may be null and is then not written.
struct Rewrite {
  const void* direction;      // h (n, d)
  const void* context;        // (n, gate_width)
  const void* target_input;   // (n, target_width)
  const void* gate_weight;    // (1, gate_width)
  const void* gate_bias;      // (1,)
  const void* target_weight;  // (dv, target_width)
  const void* target_bias;    // (dv,)
  const Override* overrides;  // (override_count,), or null: the gates stay as they are

  void* new_state;        // (n, d, dv); not null where the same call compresses over several tokens
  float* beta;            // (n,), after the override
  float* gate_logit;      // (n,), before the override
  float* target;          // (n, dv)
  float* readout;         // (n, dv), of the state before
  float* direction_norm;  // (n,), |h|

  std::int64_t gate_width;
  std::int64_t target_width;
  std::int64_t override_count;  // 1: the same for all tokens; else n
  float direction_eps;
  float target_scale;  // above 0: the target is target_scale * sigmoid(linear)
  bool erases;         // false: erase is 0 for all tokens, whatever the override says
};

// x_t[i] = sum_j sum_p weight[i, j, p] X_{t - (taps - 1 - p)}[i, j], context = x / sqrt(mean(x^2) + norm_eps) * norm.
// With a rewrite in the same call X is the new state. Tokens before a row's first are its `history`.
struct Compress {
  const void* history;      // (rows, taps - 1, d, dv), the oldest first; null where taps is 1
  const void* weight;       // (d, dv, taps)
  const void* norm_weight;  // (d,)

  void* compressed;  // x (n, d); may be null
  void* context;     // (n, d); may be null

  std::int64_t taps;  // 1: over value channels alone
  float norm_eps;
};

// One call. `rewrite.new_state` may be the same memory as `state` unless taps is above 1 on a device; any other overlap
// of an input with an output is undefined.
struct DeltaArgs {
  Type type;
  const void* state;  // (rows, tokens, d, dv)
  std::int64_t rows;
  std::int64_t tokens;  // of each row
  std::int64_t width;
  std::int64_t value_channels;
  const Rewrite* rewrite;    // null: the state is only read
  const Compress* compress;  // null: the state is only rewritten
};

// What the caller lends a backend for one call. A backend uses the part that belongs to its device.
struct Execution {
  using Task = void (*)(void* user, std::size_t index);

  // CPU: runs task(user, index) for every index below `count`, in any order and on any threads, and returns when all
  // are done; false: nothing was run.
  bool (*parallel_for)(void* pool, Task task, std::size_t count, void* user);
  void* pool;

  void* stream;  // CUDA: the cudaStream_t to launch on; the backend does not wait for it
};

// Computes one call. Returns null, or says why it did not; the text lives as long as the process.
using DeltaFunction = const char* (*)(const DeltaArgs& args, const Execution& execution);

struct Backend {
  const char* name;      // "x86-64-v4", "cuda", ...
  const char* provider;  // ONNX Runtime's name of the device
  DeltaFunction run;
};

// The CPU backends that this processor can run, the fastest first; there is always one.
const Backend* CpuBackends(std::size_t* count);

#ifdef DDL_WITH_CUDA
const Backend& CudaBackend();
#endif

}  // namespace ddl
