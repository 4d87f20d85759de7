// What the ops should give: their formulas in float64, written down once more.
#pragma once

#include <vector>

#include "check_problem.h"

namespace check {

struct Solution {
  std::vector<double> outputs[kOutputs];
};

// Sums in float64. The squares of directions and of x are rounded to float32, because their overflow there is part of
// the contract; so are the outputs to their type.
Solution Solve(const Problem& problem);

// The largest allowed error of an output, in units of each token's largest value (at least 1).
double Tolerance(const Problem& problem, int output);

// The largest error of an output in those units; infinite where one has NaN or an infinity and the other does not.
double Error(const Problem& problem, const std::vector<double>& expected, const std::vector<float>& actual);

}  // namespace check
