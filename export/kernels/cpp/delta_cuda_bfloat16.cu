// The CUDA kernels for bfloat16. A file per type, so that they compile side by side.
#include "cuda_plan.h"

namespace ddl::cuda {

template Kernel KernelOf<BFloat16>(const Plan& plan);

}  // namespace ddl::cuda
