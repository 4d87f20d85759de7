#include "check_problem.h"

#include <cmath>
#include <limits>
#include <random>

#include "check_types.h"

namespace check {

const char* const kOutputNames[kOutputs] = {"new_state", "beta",           "gate_logit", "target",
                                            "readout",   "direction_norm", "compressed", "context"};

std::int64_t Problem::OutputSize(int output) const {
  const std::int64_t per_token[kOutputs] = {width * value_channels, 1, 1,     value_channels,
                                            value_channels,         1, width, width};
  const bool wanted = output >= kCompressed ? compresses : rewrites;
  return wanted ? AllTokens() * per_token[output] : 0;
}

ddl::Type Problem::OutputType(int output) const {
  return output == kNewState || output >= kCompressed ? type : ddl::Type::kFloat32;
}

std::string Problem::Text() const {
  std::string text = std::string(Name(type)) + (rewrites ? " rewrite" : "") + (compresses ? " compress" : "") + " (" +
                     std::to_string(rows) + ", " + std::to_string(tokens) + ", " + std::to_string(width) + ", " +
                     std::to_string(value_channels) + ")";
  if (gate_width || target_width) {
    text += ", widths " + std::to_string(gate_width) + " and " + std::to_string(target_width);
  }
  if (taps > 1) text += ", taps " + std::to_string(taps);
  if (values != Values::kNormal) text += ", values " + std::to_string(static_cast<int>(values));
  if (overrides != Overrides::kNone) text += overrides == Overrides::kShared ? ", one override" : ", overrides";
  if (!erases) text += ", does not erase";
  return text;
}

namespace {

// One way to override for each token in turn.
void FillOverride(Problem& problem) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const float kinds[][6] = {
      {1, 0, 0, 2, 1, 1},  // as it is
      {0, 1, 0, 2, 1, 1},  // beta is 1
      {0.5f, 0.25f, -kInfinity, kInfinity, 1, 1},
      {1, 0, 0.9f, 1.1f, 1, 1},
      {1, 0, 0, 2, 0, 1},  // only writes
      {1, 0, 0, 2, 1, 0},  // only erases
      {1, 0, 0, 2, 0.5f, -2},
      {0, 0, 0, 2, 0, 0},  // nothing
  };
  const std::int64_t count = problem.overrides == Overrides::kShared ? 1 : problem.AllTokens();
  for (std::int64_t i = 0; i < count; ++i) {
    const float* kind = kinds[(problem.overrides == Overrides::kShared ? 2 : i) % 8];
    problem.inputs[kOverride].insert(problem.inputs[kOverride].end(), kind, kind + 6);
  }
}

void MakeExtreme(Problem& problem) {
  const auto middle = [&](int input) -> std::pair<std::int64_t, std::int64_t> {
    const std::int64_t size = static_cast<std::int64_t>(problem.inputs[input].size()) / problem.AllTokens();
    return {problem.AllTokens() / 2 * size, size};
  };
  const auto scale = [&](int input, float factor) {
    const auto [first, size] = middle(input);
    for (std::int64_t i = 0; i < size; ++i) problem.inputs[input][first + i] *= factor;
  };
  const auto poison = [&](int input, float value) {
    const auto [first, size] = middle(input);
    if (size) problem.inputs[input][first + size / 2] = value;
  };
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  switch (problem.values) {
    case Values::kNormal:
      break;
    case Values::kZeroDirection:
      return scale(kDirection, 0);
    case Values::kTinyDirection:
      return scale(kDirection, 1e-20f);
    case Values::kHugeDirection:
      return scale(kDirection, 1e17f);
    case Values::kOverflowingDirection:
      return scale(kDirection, 1e25f);
    case Values::kHugeState:
      return scale(kState, 1e30f);
    case Values::kOpenGate:
      problem.inputs[kGateBias].assign(problem.rewrites, 1e4f);
      break;
    case Values::kClosedGate:
      problem.inputs[kGateBias].assign(problem.rewrites, -1e4f);
      break;
    case Values::kNanState:
      return poison(kState, kNan);
    case Values::kInfState:
      return poison(kState, kInfinity);
    case Values::kNanDirection:
      return poison(kDirection, kNan);
    case Values::kInfDirection:
      return poison(kDirection, kInfinity);
    case Values::kNanContext:
      return poison(kContextIn, kNan);
    case Values::kInfTargetInput:
      return poison(kTargetInput, kInfinity);
  }
}

}  // namespace

Problem Filled(Problem problem) {
  if (!problem.gate_width) problem.gate_width = problem.width;
  if (!problem.target_width) problem.target_width = problem.width;
  const std::int64_t tokens = problem.AllTokens();
  const std::int64_t size = problem.width * problem.value_channels;
  std::minstd_rand generator(static_cast<unsigned>(tokens * 7919 + size * 131 + problem.taps + 1));
  const auto fill = [&](int input, std::int64_t count, double deviation) {
    problem.inputs[input].resize(static_cast<std::size_t>(count));
    constexpr double kSpread = 3.4641016;  // the variance of a uniform number is a twelfth of its range, squared
    for (float& value : problem.inputs[input]) {
      const double uniform = static_cast<double>(generator()) / std::minstd_rand::max() - 0.5;
      value = static_cast<float>(deviation * kSpread * uniform);
    }
  };
  const auto unit_sum = [](std::int64_t count) { return 1.0 / std::sqrt(static_cast<double>(count)); };
  fill(kState, tokens * size, 1);
  if (problem.rewrites) {
    fill(kDirection, tokens * problem.width, 1);
    fill(kContextIn, tokens * problem.gate_width, 1);
    fill(kTargetInput, tokens * problem.target_width, 1);
    fill(kGateWeight, problem.gate_width, unit_sum(problem.gate_width));
    fill(kGateBias, 1, 1);
    fill(kTargetWeight, problem.value_channels * problem.target_width, unit_sum(problem.target_width));
    fill(kTargetBias, problem.value_channels, 1);
    if (problem.overrides != Overrides::kNone) FillOverride(problem);
  }
  if (problem.compresses) {
    fill(kHistory, problem.rows * (problem.taps - 1) * size, 1);
    fill(kCompressWeight, size * problem.taps, unit_sum(problem.value_channels * problem.taps));
    fill(kNormWeight, problem.width, 1);
  }
  MakeExtreme(problem);
  for (int input = 0; input < kOverride; ++input) {
    for (float& value : problem.inputs[input]) value = static_cast<float>(Round(problem.type, value));
  }
  return problem;
}

Arguments::Arguments(const Problem& problem, void* const (&inputs)[kInputs], void* const (&outputs)[kOutputs]) {
  rewrite_.direction = inputs[kDirection];
  rewrite_.context = inputs[kContextIn];
  rewrite_.target_input = inputs[kTargetInput];
  rewrite_.gate_weight = inputs[kGateWeight];
  rewrite_.gate_bias = inputs[kGateBias];
  rewrite_.target_weight = inputs[kTargetWeight];
  rewrite_.target_bias = inputs[kTargetBias];
  const bool overridden = problem.overrides != Overrides::kNone;
  rewrite_.overrides = overridden ? static_cast<const ddl::Override*>(inputs[kOverride]) : nullptr;
  rewrite_.override_count = problem.overrides == Overrides::kEach ? problem.AllTokens() : overridden;
  rewrite_.new_state = outputs[kNewState];
  rewrite_.beta = static_cast<float*>(outputs[kBeta]);
  rewrite_.gate_logit = static_cast<float*>(outputs[kGateLogit]);
  rewrite_.target = static_cast<float*>(outputs[kTarget]);
  rewrite_.readout = static_cast<float*>(outputs[kReadout]);
  rewrite_.direction_norm = static_cast<float*>(outputs[kDirectionNorm]);
  rewrite_.gate_width = problem.gate_width;
  rewrite_.target_width = problem.target_width;
  rewrite_.direction_eps = problem.direction_eps;
  rewrite_.target_scale = problem.target_scale;
  rewrite_.erases = problem.erases;

  compress_.history = problem.taps > 1 ? inputs[kHistory] : nullptr;
  compress_.weight = inputs[kCompressWeight];
  compress_.norm_weight = inputs[kNormWeight];
  compress_.compressed = outputs[kCompressed];
  compress_.context = outputs[kContext];
  compress_.taps = problem.taps;
  compress_.norm_eps = problem.norm_eps;

  args_ = {problem.type,
           inputs[kState],
           problem.rows,
           problem.tokens,
           problem.width,
           problem.value_channels,
           problem.rewrites ? &rewrite_ : nullptr,
           problem.compresses ? &compress_ : nullptr};
}

}  // namespace check
