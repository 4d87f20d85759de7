// The CUDA backend as a function of C, for programs that hold memory of the card themselves: benchmarks/cuda_op.py
// mirrors its structs.
#include <cstddef>

#include "delta.h"

extern "C" {

// Launches one call on a stream. Returns null, or why it did not.
__attribute__((visibility("default"))) const char* ddl_cuda_run(const ddl::DeltaArgs* args, void* stream) {
  return ddl::CudaBackend().run(*args, {nullptr, nullptr, stream});
}

// Bytes of DeltaArgs, Rewrite and Compress, for who mirrors them to compare.
__attribute__((visibility("default"))) void ddl_cuda_layout(std::size_t sizes[3]) {
  sizes[0] = sizeof(ddl::DeltaArgs);
  sizes[1] = sizeof(ddl::Rewrite);
  sizes[2] = sizeof(ddl::Compress);
}

}  // extern "C"
