// The CUDA backend on the CPU: its plans and its kernels, run by the emulator.
#pragma once

#include "cuda_emulator.h"
#include "cuda_plan.h"
#include "delta.h"

namespace ddl::cuda {

// Computes one call as a card with these limits would, its blocks one after another. Returns null, or why not.
const char* RunEmulated(const DeltaArgs& args, const Limits& limits, emulator::Order order);

}  // namespace ddl::cuda
