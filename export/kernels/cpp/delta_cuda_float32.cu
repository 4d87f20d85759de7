// The CUDA kernels for float32. A file per type, so that they compile side by side.
#include "cuda_plan.h"

namespace ddl::cuda {

template Kernel KernelOf<float>(const Plan& plan);

}  // namespace ddl::cuda
