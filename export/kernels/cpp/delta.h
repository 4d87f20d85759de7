// The delta rewrite as every backend computes it: arguments, execution, and one function signature.
//
// Shapes are flattened: n tokens (all leading axes), width d, dv value channels, everything dense and row-major.
// The formulas and the meaning of each tensor are those of export/onnx_delta.py.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ddl {

// Tensors of one call, all float32. `new_state` may be the same memory as `state`; any other overlap of an input with
// an output is undefined. Every output but `new_state` may be null and is then not written.
struct DeltaArgs {
  const float* state;          // (n, d, dv)
  const float* direction;      // (n, d)
  const float* context;        // (n, d)
  const float* target_input;   // (n, d)
  const float* gate_weight;    // (1, d)
  const float* gate_bias;      // (1,)
  const float* target_weight;  // (dv, d)
  const float* target_bias;    // (dv,)

  float* new_state;       // (n, d, dv)
  float* beta;            // (n,)
  float* gate_logit;      // (n,)
  float* target;          // (n, dv)
  float* readout;         // (n, dv)
  float* direction_norm;  // (n,)

  std::int64_t tokens;          // n
  std::int64_t width;           // d
  std::int64_t value_channels;  // dv
  float direction_eps;          // guard of the normalisation, added squared
  float target_scale;           // above 0: the target is target_scale * sigmoid(linear)
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

// Computes the rewrite. Returns null, or says why it did not; the text lives as long as the process.
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
