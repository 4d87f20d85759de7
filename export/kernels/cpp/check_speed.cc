#include "check_speed.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "check_problem.h"
#include "check_types.h"

namespace check {
namespace {

constexpr std::int64_t kWidth = 768;
constexpr int kRounds = 15;
constexpr double kRoundSeconds = 0.008;

using Work = std::function<void(const ddl::Execution&)>;

// One way of computing, with the bytes that it must at least read and write.
struct Contestant {
  const char* name;
  std::size_t bytes;
  Work work;
  int repeats = 0;
  std::vector<double> seconds = {};
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Measures all of them in turn, so that whatever else the machine does falls on each alike.
void Measure(Device& device, std::vector<Contestant>& contestants) {
  for (Contestant& contestant : contestants) {
    device.Time(contestant.work, 1);  // warm up
    const double once = std::max(device.Time(contestant.work, 2), 1e-7);
    contestant.repeats = static_cast<int>(std::clamp(kRoundSeconds / once, 1.0, 20000.0));
  }
  for (int round = 0; round < kRounds; ++round) {
    for (Contestant& contestant : contestants) {
      contestant.seconds.push_back(device.Time(contestant.work, contestant.repeats));
    }
  }
}

void PrintShape(const ddl::Backend& backend, Device& device, ddl::Type type, std::int64_t tokens,
                std::int64_t channels) {
  Problem both;
  both.type = type;
  both.tokens = tokens;
  both.width = kWidth;
  both.value_channels = channels;
  both.compresses = true;
  both = Filled(both);
  Problem rewrites = both;
  rewrites.compresses = false;
  Problem compresses = both;
  compresses.rewrites = false;

  void* inputs[kInputs];
  void* outputs[kOutputs];
  for (int i = 0; i < kInputs; ++i) {
    const std::vector<char> encoded = Encode(i == kOverride ? ddl::Type::kFloat32 : type, both.inputs[i]);
    inputs[i] = device.Allocate(encoded.size());
    device.Upload(inputs[i], encoded.data(), encoded.size());
  }
  for (int i = 0; i < kOutputs; ++i) {
    const auto bytes = static_cast<std::size_t>(both.OutputSize(i)) * Size(both.OutputType(i));
    outputs[i] = device.Allocate(bytes);
    const std::vector<char> zeros(bytes);  // without a first write its pages would be one page of zeros
    device.Upload(outputs[i], zeros.data(), bytes);
  }
  void* in_place[kOutputs];
  std::copy(outputs, outputs + kOutputs, in_place);
  in_place[kNewState] = inputs[kState];
  void* shared_inputs[kInputs];
  std::copy(inputs, inputs + kInputs, shared_inputs);
  shared_inputs[kTargetInput] = inputs[kContextIn];

  const Arguments apart(rewrites, inputs, outputs);
  const Arguments inside(rewrites, inputs, in_place);
  const Arguments shared(rewrites, shared_inputs, in_place);
  const Arguments read(compresses, inputs, outputs);
  const Arguments fused(both, inputs, in_place);
  const auto call = [&](const Arguments& arguments) {
    return [&](const ddl::Execution& execution) { backend.run(arguments.args(), execution); };
  };
  const std::size_t row = static_cast<std::size_t>(tokens * kWidth) * Size(type);
  const std::size_t state = row * static_cast<std::size_t>(channels);
  std::vector<Contestant> contestants = {
      {"copy of the state", 2 * state,
       [&](const ddl::Execution&) { device.Copy(outputs[kNewState], inputs[kState], state); }},
      {"rewrite", 2 * state + 3 * row, call(apart)},
      {"rewrite in place", 2 * state + 3 * row, call(inside)},
      {"rewrite in place, one input", 2 * state + 2 * row, call(shared)},
      {"compress and norm", state + 2 * row, call(read)},
      {"all in place", 2 * state + 5 * row, call(fused)},
  };
  Measure(device, contestants);
  for (const Contestant& contestant : contestants) {
    const double median = Median(contestant.seconds);
    const double fastest = *std::min_element(contestant.seconds.begin(), contestant.seconds.end());
    std::printf(
        "{\"backend\":\"%s\",\"type\":\"%s\",\"tokens\":%lld,\"width\":%lld,\"value_channels\":%lld,\"work\":\"%s\","
        "\"bytes\":%zu,\"median_seconds\":%.4g,\"fastest_seconds\":%.4g,\"median_of_copy\":%.3g,"
        "\"fastest_of_copy\":%.3g}\n",
        backend.name, Name(type), static_cast<long long>(tokens), static_cast<long long>(kWidth),
        static_cast<long long>(channels), contestant.name, contestant.bytes, median, fastest,
        median / Median(contestants[0].seconds),
        fastest / *std::min_element(contestants[0].seconds.begin(), contestants[0].seconds.end()));
  }
  std::fflush(stdout);
  for (void* memory : inputs) device.Free(memory);
  for (void* memory : outputs) device.Free(memory);
}

}  // namespace

void PrintSpeed(const ddl::Backend& backend, Device& device) {
  std::vector<std::int64_t> sizes = {1, 16, 256, 4096};
  if (!std::strcmp(backend.name, "cuda")) sizes.push_back(65536);
  for (const ddl::Type type : kTypes) {
    for (const std::int64_t channels : {1, 4}) {
      for (const std::int64_t tokens : sizes) PrintShape(backend, device, type, tokens, channels);
    }
  }
}

}  // namespace check
