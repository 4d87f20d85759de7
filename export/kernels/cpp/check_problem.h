// Inputs for the check of the backends, and what they should give: the rewrite in float64, written down once more.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace check {

constexpr int kInputs = 8;
constexpr int kOutputs = 6;
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
extern const Values kExtremeValues[13];

struct Problem {
  std::int64_t tokens;
  std::int64_t width;
  std::int64_t value_channels;
  float direction_eps = 1e-6f;
  float target_scale = 0.0f;
  std::vector<float> inputs[kInputs] = {};  // in the order of the operator

  std::string Shape() const;
  std::int64_t OutputSize(int output) const;
};

Problem MakeProblem(std::int64_t tokens, std::int64_t width, std::int64_t value_channels, Values values);

struct Solution {
  std::vector<double> outputs[kOutputs];  // in the order of the operator
};

// Sums in float64. The square of the direction is rounded to float32, because its overflow there is part of the
// contract.
Solution Solve(const Problem& problem);

// The largest error of an output, in units of each token's largest value (at least 1); infinite where one has NaN or an
// infinity and the other does not.
double Error(const Problem& problem, const std::vector<double>& expected, const std::vector<float>& actual);

}  // namespace check
