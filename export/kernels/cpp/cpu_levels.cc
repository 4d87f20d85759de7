// Chooses, when the library is loaded, the instruction set levels that this processor has.
#include "delta.h"

namespace ddl {

#ifdef DDL_X86_64_LEVELS

namespace x86_64_v2 {
const char* Compute(const DeltaArgs& args, const Execution& execution);
}
namespace x86_64_v3 {
const char* Compute(const DeltaArgs& args, const Execution& execution);
}
namespace x86_64_v4 {
const char* Compute(const DeltaArgs& args, const Execution& execution);
}

namespace {

constexpr Backend kBackends[] = {
    {"x86-64-v4", "CPUExecutionProvider", x86_64_v4::Compute},
    {"x86-64-v3", "CPUExecutionProvider", x86_64_v3::Compute},
    {"x86-64-v2", "CPUExecutionProvider", x86_64_v2::Compute},
};

// Asks for the features that tell the levels apart, because older compilers do not know the levels by name. Not for
// f16c, which clang 14 does not know either: every processor with avx2 has it.
std::size_t FirstSupported() {
  __builtin_cpu_init();
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                  __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 0 : v3 ? 1 : 2;
}

}  // namespace

const Backend* CpuBackends(std::size_t* count) {
  static const std::size_t first = FirstSupported();
  *count = sizeof(kBackends) / sizeof(kBackends[0]) - first;
  return kBackends + first;
}

#else

namespace baseline {
const char* Compute(const DeltaArgs& args, const Execution& execution);
}

const Backend* CpuBackends(std::size_t* count) {
  static constexpr Backend kBackend = {"baseline", "CPUExecutionProvider", baseline::Compute};
  *count = 1;
  return &kBackend;
}

#endif

}  // namespace ddl
