#include "cuda_emulated.h"

namespace ddl {
namespace cuda {

const char* RunEmulated(const DeltaArgs& args, const Limits& limits, emulator::Order order) {
  if (args.rows * args.tokens == 0) return nullptr;
  Plan plan;
  if (const char* reason = MakePlan(args, limits, &plan)) return reason;
  if (plan.shared_bytes > limits.shared_per_block) return "the plan takes more memory than a block may have";
  const Kernel kernel = args.type == Type::kFloat32   ? KernelOf<float>(plan)
                        : args.type == Type::kFloat16 ? KernelOf<Half>(plan)
                                                      : KernelOf<BFloat16>(plan);
  emulator::Launch(plan.blocks, plan.threads, plan.shared_bytes, order, [&] { kernel(plan.call); });
  return nullptr;
}

}  // namespace cuda

// In place of the backend of delta_cuda.cu: a card of two processors.
const Backend& CudaBackend() {
  static constexpr DeltaFunction kRun = [](const DeltaArgs& args, const Execution&) {
    return cuda::RunEmulated(args, {2, 64 * 1024, 64 * 1024}, emulator::Order::kAscending);
  };
  static constexpr Backend kBackend = {"emulated", "CPUExecutionProvider", kRun};
  return kBackend;
}

}  // namespace ddl
