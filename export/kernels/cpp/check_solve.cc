#include "check_solve.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check_types.h"

namespace check {
namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double Dot(const float* a, const float* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

struct Gate {
  double beta;
  double erase;
  double write;
};

Gate FindGate(const Problem& problem, std::int64_t token, double beta) {
  Gate gate = {beta, 1, 1};
  if (problem.overrides != Overrides::kNone) {
    const float* by = problem.inputs[kOverride].data() + (problem.overrides == Overrides::kEach ? 6 * token : 0);
    double changed = by[0] == 0 ? by[1] : by[0] * beta + by[1];
    if (!std::isnan(changed)) changed = std::min<double>(std::max<double>(changed, by[2]), by[3]);
    gate = {changed, by[4], by[5]};
  }
  if (!problem.erases) gate.erase = 0;
  return gate;
}

void SolveRewrite(const Problem& problem, Solution& solution) {
  const std::int64_t width = problem.width;
  const std::int64_t channels = problem.value_channels;
  const auto& inputs = problem.inputs;
  auto& outputs = solution.outputs;
  for (std::int64_t token = 0; token < problem.AllTokens(); ++token) {
    const float* h = inputs[kDirection].data() + token * width;
    const float* x = inputs[kState].data() + token * width * channels;
    const double square = static_cast<float>(Dot(h, h, width));
    const double length = std::sqrt(square + static_cast<double>(problem.direction_eps) * problem.direction_eps);
    const double logit =
        Dot(inputs[kContextIn].data() + token * problem.gate_width, inputs[kGateWeight].data(), problem.gate_width) +
        inputs[kGateBias][0];
    const Gate gate = FindGate(problem, token, 2.0 * Sigmoid(logit));
    std::vector<double> k(h, h + width);
    for (double& value : k) value /= length;
    outputs[kDirectionNorm][token] = std::sqrt(square);
    outputs[kGateLogit][token] = logit;
    outputs[kBeta][token] = gate.beta;
    for (std::int64_t j = 0; j < channels; ++j) {
      double v = Dot(inputs[kTargetInput].data() + token * problem.target_width,
                     inputs[kTargetWeight].data() + j * problem.target_width, problem.target_width) +
                 inputs[kTargetBias][j];
      if (problem.target_scale > 0) v = problem.target_scale * Sigmoid(v);
      double read = 0;
      for (std::int64_t i = 0; i < width; ++i) read += k[i] * x[i * channels + j];
      outputs[kTarget][token * channels + j] = v;
      outputs[kReadout][token * channels + j] = read;
      const double wanted = gate.write == 0 ? 0 : gate.write * v;
      const double step = gate.beta * (gate.erase == 0 ? wanted : wanted - gate.erase * read);
      for (std::int64_t i = 0; i < width; ++i) {
        outputs[kNewState][(token * width + i) * channels + j] = x[i * channels + j] + k[i] * step;
      }
    }
  }
}

void SolveCompress(const Problem& problem, Solution& solution) {
  const std::int64_t width = problem.width;
  const std::int64_t size = width * problem.value_channels;
  const std::int64_t before = problem.taps - 1;
  const std::vector<double> kept(problem.inputs[kState].begin(), problem.inputs[kState].end());
  const std::vector<double>& states = problem.rewrites ? solution.outputs[kNewState] : kept;
  const float* history = problem.inputs[kHistory].data();
  for (std::int64_t token = 0; token < problem.AllTokens(); ++token) {
    const std::int64_t row = token / problem.tokens;
    const std::int64_t index = token % problem.tokens;
    double* x = solution.outputs[kCompressed].data() + token * width;
    for (std::int64_t p = 0; p < problem.taps; ++p) {
      const std::int64_t source = index - before + p;
      for (std::int64_t at = 0; at < size; ++at) {
        const double value = source >= 0 ? states[(row * problem.tokens + source) * size + at]
                                         : history[(row * before + before + source) * size + at];
        x[at / problem.value_channels] += value * problem.inputs[kCompressWeight][at * problem.taps + p];
      }
    }
    double square = 0;
    for (std::int64_t i = 0; i < width; ++i) square += x[i] * x[i];
    const double length = std::sqrt(static_cast<float>(square) / static_cast<double>(width) + problem.norm_eps);
    for (std::int64_t i = 0; i < width; ++i) {
      solution.outputs[kContext][token * width + i] = x[i] / length * problem.inputs[kNormWeight][i];
    }
  }
}

}  // namespace

Solution Solve(const Problem& problem) {
  Solution solution;
  for (int output = 0; output < kOutputs; ++output) {
    solution.outputs[output].resize(static_cast<std::size_t>(problem.OutputSize(output)));
  }
  if (problem.rewrites) SolveRewrite(problem, solution);
  if (problem.compresses) SolveCompress(problem, solution);
  for (int output = 0; output < kOutputs; ++output) {
    for (double& value : solution.outputs[output]) value = Round(problem.OutputType(output), value);
  }
  return solution;
}

double Tolerance(const Problem& problem, int output) {
  // float32 keeps 24 bits; a sum of 768 products in several chains and the division by the length cost a few of them.
  constexpr double kSum = 4e-6;
  // The result is rounded to the type, and so is what it is compared with, perhaps to the other side.
  const double last_bit[] = {0, 0x1p-10, 0x1p-7};
  const double rounding = last_bit[static_cast<int>(problem.OutputType(output))];
  // x is made of new states that were rounded before, and its norm may be far smaller than they are.
  const bool twice = problem.rewrites && output >= kCompressed;
  return kSum * (output == kContext ? 3 : 1) + rounding * (twice ? 4 : 1);
}

double Error(const Problem& problem, const std::vector<double>& expected, const std::vector<float>& actual) {
  double worst = 0;
  const auto tokens = static_cast<std::size_t>(problem.AllTokens());
  const std::size_t row = tokens ? expected.size() / tokens : 0;
  for (std::size_t token = 0; row && token < tokens; ++token) {
    double scale = 1;
    for (std::size_t i = token * row; i < (token + 1) * row; ++i) {
      if (std::isfinite(expected[i])) scale = std::max(scale, std::fabs(expected[i]));
    }
    for (std::size_t i = token * row; i < (token + 1) * row; ++i) {
      if (std::isfinite(expected[i]) && std::isfinite(actual[i])) {
        worst = std::max(worst, std::fabs(expected[i] - actual[i]) / scale);
      } else if (!(std::isnan(expected[i]) && std::isnan(actual[i])) && expected[i] != actual[i]) {
        return std::numeric_limits<double>::infinity();
      }
    }
  }
  return worst;
}

}  // namespace check
