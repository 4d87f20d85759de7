// Inputs for the check of the backends: every op, type and shape, with values that are normal or extreme.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "delta.h"

namespace check {

enum Input {
  kState,
  kDirection,
  kContextIn,
  kTargetInput,
  kGateWeight,
  kGateBias,
  kTargetWeight,
  kTargetBias,
  kHistory,
  kCompressWeight,
  kNormWeight,
  kOverride,
  kInputs
};

enum Output { kNewState, kBeta, kGateLogit, kTarget, kReadout, kDirectionNorm, kCompressed, kContext, kOutputs };
extern const char* const kOutputNames[kOutputs];

// What the values look like. All but kNormal change one token (the middle one) or its gate; the others stay normal.
enum class Values {
  kNormal,
  kZeroDirection,         // k = 0: nothing changes
  kTinyDirection,         // far below the guard
  kHugeDirection,         // its square is just within float32
  kOverflowingDirection,  // its square is not: k = 0
  kHugeState,
  kOpenGate,    // beta = 2
  kClosedGate,  // beta = 0
  kNanState,
  kInfState,
  kNanDirection,
  kInfDirection,
  kNanContext,
  kInfTargetInput,
};
constexpr int kValues = 14;

enum class Overrides { kNone, kShared, kEach };

struct Problem {
  ddl::Type type = ddl::Type::kFloat32;
  bool rewrites = true;
  bool compresses = false;
  std::int64_t rows = 1;
  std::int64_t tokens = 3;  // of each row
  std::int64_t width = 64;
  std::int64_t value_channels = 4;
  std::int64_t gate_width = 0;    // 0: as wide as the state
  std::int64_t target_width = 0;  // 0: as wide as the state
  std::int64_t taps = 1;
  Values values = Values::kNormal;
  Overrides overrides = Overrides::kNone;
  bool erases = true;
  float direction_eps = 1e-6f;
  float target_scale = 0.0f;
  float norm_eps = 1e-5f;
  std::vector<float> inputs[kInputs] = {};  // every one but the override a number of the type

  std::int64_t AllTokens() const { return rows * tokens; }
  std::int64_t OutputSize(int output) const;  // 0: not an output of this problem
  ddl::Type OutputType(int output) const;
  std::string Text() const;
};

// Draws the inputs that the other members ask for.
Problem Filled(Problem problem);

// A call on a problem's inputs and outputs, which lie in the memory of a device.
class Arguments {
 public:
  Arguments(const Problem& problem, void* const (&inputs)[kInputs], void* const (&outputs)[kOutputs]);
  Arguments(const Arguments&) = delete;
  Arguments& operator=(const Arguments&) = delete;

  const ddl::DeltaArgs& args() const { return args_; }

 private:
  ddl::Rewrite rewrite_ = {};
  ddl::Compress compress_ = {};
  ddl::DeltaArgs args_ = {};
};

}  // namespace check
