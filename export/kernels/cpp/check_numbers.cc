#include "check_numbers.h"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "check_problem.h"
#include "check_types.h"

namespace check {
namespace {

constexpr std::int64_t kNumbers = 1 << 16;

// Each value channel adds another number: none, large ones, halves of last bits, and subnormal ones.
const float kAddends[] = {0.0f, 1.0f, 0x1p-11f, -0x1p-8f, 0x1p-24f, -0.333f, 1000.5f, 0x1p-14f};
constexpr std::int64_t kChannels = sizeof(kAddends) / sizeof(kAddends[0]);

// k is 1 / sqrt(width) in every row, beta is 1, and the target is its bias: what is added is the target times k.
Problem MakeNumbers(ddl::Type type, std::int64_t width) {
  std::vector<char> bits(2 * kNumbers);
  for (std::int64_t i = 0; i < kNumbers; ++i) {
    const auto number = static_cast<std::uint16_t>(i);
    std::memcpy(bits.data() + 2 * i, &number, 2);
  }
  const std::vector<float> numbers = Decode(type, bits);
  Problem problem;
  problem.type = type;
  problem.tokens = kNumbers / width;
  problem.width = problem.gate_width = problem.target_width = width;
  problem.value_channels = kChannels;
  problem.overrides = Overrides::kShared;
  problem.direction_eps = 0;
  const auto fill = [&](int input, std::int64_t count, float value) {
    problem.inputs[input].assign(static_cast<std::size_t>(count), value);
  };
  for (const float number : numbers) problem.inputs[kState].insert(problem.inputs[kState].end(), kChannels, number);
  fill(kDirection, kNumbers, 1);
  fill(kContextIn, kNumbers, 0);
  fill(kTargetInput, kNumbers, 0);
  fill(kGateWeight, width, 0);
  fill(kGateBias, 1, 0);
  fill(kTargetWeight, kChannels * width, 0);
  const float length = std::sqrt(static_cast<float>(width));
  for (const float addend : kAddends) {
    problem.inputs[kTargetBias].push_back(static_cast<float>(Round(type, addend * length)));
  }
  problem.inputs[kOverride] = {0, 1, 0, 2, 0, 1};
  return problem;
}

std::string CheckWidth(const ddl::Backend& backend, Device& device, ddl::Type type, std::int64_t width) {
  const Problem problem = MakeNumbers(type, width);
  void* inputs[kInputs] = {};
  void* outputs[kOutputs] = {};
  for (int i = 0; i < kInputs; ++i) {
    const std::vector<char> encoded = Encode(i == kOverride ? ddl::Type::kFloat32 : type, problem.inputs[i]);
    inputs[i] = device.Allocate(encoded.size());
    device.Upload(inputs[i], encoded.data(), encoded.size());
  }
  outputs[kNewState] = inputs[kState];
  const Arguments arguments(problem, inputs, outputs);
  const char* error = nullptr;
  device.Run([&](const ddl::Execution& execution) { error = backend.run(arguments.args(), execution); });
  std::vector<char> bytes(problem.inputs[kState].size() * Size(type));
  device.Download(bytes.data(), inputs[kState], bytes.size());
  for (void* memory : inputs) device.Free(memory);
  if (error) return error;

  const std::vector<float> actual = Decode(type, bytes);
  const float length = std::sqrt(static_cast<float>(width));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    const float before = problem.inputs[kState][i];
    const float sum = before + problem.inputs[kTargetBias][i % kChannels] / length;
    const double expected = Round(type, sum);
    if (actual[i] == expected || (std::isnan(actual[i]) && std::isnan(expected))) continue;
    return std::to_string(before) + " became " + std::to_string(actual[i]) + " instead of " + std::to_string(expected);
  }
  return "";
}

}  // namespace

std::string CheckNumbers(const ddl::Backend& backend, Device& device, ddl::Type type) {
  const std::string whole_vectors = CheckWidth(backend, device, type, 64);
  return whole_vectors.empty() ? CheckWidth(backend, device, type, 1) : whole_vectors;
}

}  // namespace check
