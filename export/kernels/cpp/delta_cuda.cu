// The ops on an NVIDIA card: one launch each, on the caller's stream. Nothing waits for the card or allocates memory
// there, so a launch can be recorded in a graph.
#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <utility>

#include "cuda_plan.h"
#include "delta.h"

namespace ddl {
namespace cuda {

extern template Kernel KernelOf<float>(const Plan& plan);
extern template Kernel KernelOf<Half>(const Plan& plan);
extern template Kernel KernelOf<BFloat16>(const Plan& plan);

}  // namespace cuda

namespace {

constexpr std::size_t kSharedWithoutAsking = 48 * 1024;

cudaError_t GetLimits(int device, cuda::Limits* limits) {
  int per_block = 0;
  int per_processor = 0;
  cudaError_t error = cudaDeviceGetAttribute(&limits->processors, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&per_block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  }
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&per_processor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  }
  limits->shared_per_block = static_cast<std::size_t>(per_block);
  limits->shared_per_processor = static_cast<std::size_t>(per_processor);
  return error;
}

// Lets the kernel take as much of a block's memory as the card has; asks once.
cudaError_t AllowShared(int device, cuda::Kernel kernel, std::size_t most) {
  static std::mutex mutex;
  static std::set<std::pair<int, cuda::Kernel>> allowed;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({device, kernel})) return cudaSuccess;
  const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(most));
  if (error == cudaSuccess) allowed.insert({device, kernel});
  return error;
}

const char* Run(const DeltaArgs& args, const Execution& execution) {
  if (args.rows == 0 || args.tokens == 0 || (!args.rewrite && !args.compress)) return nullptr;
  int device = 0;
  cuda::Limits limits = {};
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = GetLimits(device, &limits);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  cuda::Plan plan;
  if (const char* reason = cuda::MakePlan(args, limits, &plan)) return reason;
  const cuda::Kernel kernel = args.type == Type::kFloat32   ? cuda::KernelOf<float>(plan)
                              : args.type == Type::kFloat16 ? cuda::KernelOf<cuda::Half>(plan)
                                                            : cuda::KernelOf<cuda::BFloat16>(plan);
  if (plan.shared_bytes > kSharedWithoutAsking) error = AllowShared(device, kernel, limits.shared_per_block);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  void* arguments[] = {&plan.call};
  error = cudaLaunchKernel(reinterpret_cast<const void*>(kernel), dim3(plan.blocks), dim3(plan.threads), arguments,
                           plan.shared_bytes, static_cast<cudaStream_t>(execution.stream));
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace

const Backend& CudaBackend() {
  static constexpr Backend kBackend = {"cuda", "CUDAExecutionProvider", Run};
  return kBackend;
}

}  // namespace ddl
