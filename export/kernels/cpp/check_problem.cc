#include "check_problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace check {

const char* const kOutputNames[kOutputs] = {"new_state", "beta", "gate_logit", "target", "readout", "direction_norm"};

const Values kExtremeValues[13] = {Values::kZeroDirection,        Values::kTinyDirection, Values::kHugeDirection,
                                   Values::kOverflowingDirection, Values::kHugeState,     Values::kOpenGate,
                                   Values::kClosedGate,           Values::kNanState,      Values::kInfState,
                                   Values::kNanDirection,         Values::kInfDirection,  Values::kNanContext,
                                   Values::kInfTargetInput};

std::string Problem::Shape() const {
  return "(" + std::to_string(tokens) + ", " + std::to_string(width) + ", " + std::to_string(value_channels) + ")";
}

std::int64_t Problem::OutputSize(int output) const {
  const std::int64_t per_token[kOutputs] = {width * value_channels, 1, 1, value_channels, value_channels, 1};
  return tokens * per_token[output];
}

Problem MakeProblem(std::int64_t tokens, std::int64_t width, std::int64_t value_channels, Values values) {
  Problem problem = {tokens, width, value_channels};
  std::mt19937 generator(static_cast<unsigned>(tokens * 7919 + width * 131 + value_channels));
  std::normal_distribution<float> normal;
  const auto fill = [&](int input, std::int64_t count, float scale) {
    problem.inputs[input].resize(static_cast<std::size_t>(count));
    for (float& value : problem.inputs[input]) value = scale * normal(generator);
  };
  const float unit_sum = 1.0f / std::sqrt(static_cast<float>(width));
  fill(0, tokens * width * value_channels, 1);
  for (int input = 1; input <= 3; ++input) fill(input, tokens * width, 1);
  fill(4, width, unit_sum);
  fill(5, 1, 1);
  fill(6, value_channels * width, unit_sum);
  fill(7, value_channels, 1);

  const auto scale_row = [&](int input, float factor) {
    const std::int64_t row = static_cast<std::int64_t>(problem.inputs[input].size()) / tokens;
    for (std::int64_t i = 0; i < row; ++i) problem.inputs[input][tokens / 2 * row + i] *= factor;
  };
  const auto poison = [&](int input, float value) {
    const std::int64_t row = static_cast<std::int64_t>(problem.inputs[input].size()) / tokens;
    problem.inputs[input][tokens / 2 * row + row / 2] = value;
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (values) {
    case Values::kNormal:
      break;
    case Values::kZeroDirection:
      scale_row(1, 0);
      break;
    case Values::kTinyDirection:
      scale_row(1, 1e-20f);
      break;
    case Values::kHugeDirection:
      scale_row(1, 1e17f);
      break;
    case Values::kOverflowingDirection:
      scale_row(1, 1e25f);
      break;
    case Values::kHugeState:
      scale_row(0, 1e30f);
      break;
    case Values::kOpenGate:
      problem.inputs[5][0] = 1e4f;
      break;
    case Values::kClosedGate:
      problem.inputs[5][0] = -1e4f;
      break;
    case Values::kNanState:
      poison(0, kNan);
      break;
    case Values::kInfState:
      poison(0, kInfinity);
      break;
    case Values::kNanDirection:
      poison(1, kNan);
      break;
    case Values::kInfDirection:
      poison(1, kInfinity);
      break;
    case Values::kNanContext:
      poison(2, kNan);
      break;
    case Values::kInfTargetInput:
      poison(3, kInfinity);
      break;
  }
  return problem;
}

namespace {

double Sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

double Dot(const float* a, const float* b, std::int64_t count) {
  double sum = 0;
  for (std::int64_t i = 0; i < count; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

}  // namespace

Solution Solve(const Problem& problem) {
  const std::int64_t width = problem.width;
  const std::int64_t channels = problem.value_channels;
  const auto& [state, direction, context, target_input, gate_weight, gate_bias, target_weight, target_bias] =
      problem.inputs;
  Solution solution;
  auto& [new_state, beta, gate_logit, target, readout, direction_norm] = solution.outputs;
  for (int output = 0; output < kOutputs; ++output) {
    solution.outputs[output].resize(static_cast<std::size_t>(problem.OutputSize(output)));
  }
  for (std::int64_t token = 0; token < problem.tokens; ++token) {
    const float* h = direction.data() + token * width;
    const float* x = state.data() + token * width * channels;
    const double square = static_cast<float>(Dot(h, h, width));
    const double length = std::sqrt(square + static_cast<double>(problem.direction_eps) * problem.direction_eps);
    direction_norm[token] = std::sqrt(square);
    gate_logit[token] = Dot(context.data() + token * width, gate_weight.data(), width) + gate_bias[0];
    beta[token] = 2.0 * Sigmoid(gate_logit[token]);
    for (std::int64_t j = 0; j < channels; ++j) {
      double v = Dot(target_input.data() + token * width, target_weight.data() + j * width, width) + target_bias[j];
      if (problem.target_scale > 0) v = problem.target_scale * Sigmoid(v);
      double read = 0;
      for (std::int64_t i = 0; i < width; ++i) read += h[i] / length * x[i * channels + j];
      target[token * channels + j] = v;
      readout[token * channels + j] = read;
      const double step = beta[token] * (v - read);
      for (std::int64_t i = 0; i < width; ++i) {
        new_state[(token * width + i) * channels + j] = x[i * channels + j] + h[i] / length * step;
      }
    }
  }
  return solution;
}

double Error(const Problem& problem, const std::vector<double>& expected, const std::vector<float>& actual) {
  double worst = 0;
  const std::size_t row = problem.tokens ? expected.size() / static_cast<std::size_t>(problem.tokens) : 0;
  for (std::size_t token = 0; row && token < static_cast<std::size_t>(problem.tokens); ++token) {
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
