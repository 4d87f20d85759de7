#include "check_speed.h"

#include <algorithm>
#include <cstdio>
#include <string_view>
#include <vector>

#include "check_problem.h"

namespace check {
namespace {

constexpr std::int64_t kWidth = 768;
constexpr int kRounds = 9;
constexpr double kRoundSeconds = 0.01;

struct Samples {
  std::vector<double> seconds;

  double Fastest() const { return *std::min_element(seconds.begin(), seconds.end()); }
  double Median() const {
    std::vector<double> sorted = seconds;
    std::sort(sorted.begin(), sorted.end());
    return sorted[sorted.size() / 2];
  }
};

// Repetitions that fill a round.
int Repeats(Device& device, const std::function<void(const ddl::Execution&)>& work) {
  device.Time(work, 1);  // warm up
  const double once = std::max(device.Time(work, 1), 1e-7);
  return static_cast<int>(std::clamp(kRoundSeconds / once, 1.0, 1000.0));
}

void PrintShape(const ddl::Backend& backend, Device& device, std::int64_t tokens, std::int64_t channels) {
  const Problem problem = MakeProblem(tokens, kWidth, channels, Values::kNormal);
  float* inputs[kInputs];
  float* outputs[kOutputs];
  for (int i = 0; i < kInputs; ++i) {
    inputs[i] = device.Allocate(problem.inputs[i].size());
    device.Upload(inputs[i], problem.inputs[i].data(), problem.inputs[i].size());
  }
  for (int i = 0; i < kOutputs; ++i) outputs[i] = device.Allocate(static_cast<std::size_t>(problem.OutputSize(i)));

  // Read once: state, direction, context and target input; written once: the new state.
  const std::size_t floats = static_cast<std::size_t>(tokens * kWidth * (2 * channels + 3));
  float* copy_from = device.Allocate(floats / 2);
  float* copy_to = device.Allocate(floats / 2);
  std::vector<float> values(floats / 2, 1.0f);
  device.Upload(copy_from, values.data(), values.size());
  device.Upload(copy_to, values.data(), values.size());

  const ddl::DeltaArgs args = {
      inputs[0],           inputs[1],  inputs[2],  inputs[3],  inputs[4],  inputs[5],
      inputs[6],           inputs[7],  outputs[0], outputs[1], outputs[2], outputs[3],
      outputs[4],          outputs[5], tokens,     kWidth,     channels,   problem.direction_eps,
      problem.target_scale};
  const auto rewrite = [&](const ddl::Execution& execution) { backend.run(args, execution); };
  const auto copy = [&](const ddl::Execution&) { device.Copy(copy_to, copy_from, floats / 2); };
  Samples rewrites, copies;
  const int rewrite_repeats = Repeats(device, rewrite);
  const int copy_repeats = Repeats(device, copy);
  for (int round = 0; round < kRounds; ++round) {
    rewrites.seconds.push_back(device.Time(rewrite, rewrite_repeats));
    copies.seconds.push_back(device.Time(copy, copy_repeats));
  }
  std::printf(
      "{\"backend\":\"%s\",\"tokens\":%lld,\"width\":%lld,\"value_channels\":%lld,\"bytes\":%zu,"
      "\"median_seconds\":%.4g,\"fastest_seconds\":%.4g,\"copy_median_seconds\":%.4g,\"copy_fastest_seconds\":%.4g}\n",
      backend.name, static_cast<long long>(tokens), static_cast<long long>(kWidth), static_cast<long long>(channels),
      floats * sizeof(float), rewrites.Median(), rewrites.Fastest(), copies.Median(), copies.Fastest());
  std::fflush(stdout);
  for (float* memory : inputs) device.Free(memory);
  for (float* memory : outputs) device.Free(memory);
  device.Free(copy_from);
  device.Free(copy_to);
}

}  // namespace

void PrintSpeed(const ddl::Backend& backend, Device& device) {
  std::vector<std::int64_t> sizes = {1, 16, 256, 4096};
  if (backend.name == std::string_view("cuda")) sizes.push_back(65536);
  for (const std::int64_t channels : {1, 4}) {
    for (const std::int64_t tokens : sizes) PrintShape(backend, device, tokens, channels);
  }
}

}  // namespace check
