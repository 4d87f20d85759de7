// Holds every backend of this build against the float64 reference; exits with 1 where one fails.
//
//     check_delta [--require-cuda] [--bench]
//
// --require-cuda: a machine without a usable card fails, instead of leaving the CUDA backend out.
// --bench: prints the speed of each backend afterwards, one JSON object per line.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "check_memory.h"
#include "check_problem.h"
#include "check_speed.h"
#include "delta.h"

namespace {

using check::kInputs;
using check::kOutputs;
using check::Problem;
using check::Values;

// float32 keeps 24 bits; a sum of 768 products in several chains and the division by the length cost a few of them.
constexpr double kTolerance = 4e-6;

constexpr float kUnwritten = 1234.5f;
constexpr std::size_t kMargin = 64;  // floats behind each output that must stay as they were

enum class Variant { kApart, kInPlace, kOffByOneFloat, kStateOnly };

// One row of the printed table.
struct Group {
  const char* name;
  int cases = 0;
  double worst[kOutputs] = {};
  std::string failure = {};
};

class Buffer {
 public:
  Buffer(check::Device& device, std::size_t count, std::size_t offset)
      : device_(device), memory_(device.Allocate(count + kMargin + offset)), begin_(memory_ + offset), count_(count) {
    const std::vector<float> values(count + kMargin, kUnwritten);
    device_.Upload(begin_, values.data(), values.size());
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { device_.Free(memory_); }

  float* begin() const { return begin_; }
  void Write(const std::vector<float>& values) { device_.Upload(begin_, values.data(), values.size()); }

  // Returns false where the margin was written to.
  bool Read(std::vector<float>* values) const {
    values->resize(count_ + kMargin);
    device_.Download(values->data(), begin_, values->size());
    const bool kept = std::all_of(values->begin() + static_cast<std::ptrdiff_t>(count_), values->end(),
                                  [](float value) { return value == kUnwritten; });
    values->resize(count_);
    return kept;
  }

 private:
  check::Device& device_;
  float* memory_;
  float* begin_;
  std::size_t count_;
};

void CheckCase(const ddl::Backend& backend, check::Device& device, const Problem& problem, Variant variant,
               Group* group) {
  const std::size_t offset = variant == Variant::kOffByOneFloat ? 1 : 0;
  std::vector<std::unique_ptr<Buffer>> inputs, outputs;
  for (const std::vector<float>& values : problem.inputs) {
    inputs.push_back(std::make_unique<Buffer>(device, values.size(), offset));
    inputs.back()->Write(values);
  }
  for (int i = 0; i < kOutputs; ++i) {
    outputs.push_back(std::make_unique<Buffer>(device, static_cast<std::size_t>(problem.OutputSize(i)), offset));
  }
  Buffer& new_state = variant == Variant::kInPlace ? *inputs[0] : *outputs[0];
  const auto optional = [&](int i) { return variant == Variant::kStateOnly ? nullptr : outputs[i]->begin(); };

  ddl::DeltaArgs args = {};
  args.state = inputs[0]->begin();
  args.direction = inputs[1]->begin();
  args.context = inputs[2]->begin();
  args.target_input = inputs[3]->begin();
  args.gate_weight = inputs[4]->begin();
  args.gate_bias = inputs[5]->begin();
  args.target_weight = inputs[6]->begin();
  args.target_bias = inputs[7]->begin();
  args.new_state = new_state.begin();
  args.beta = optional(1);
  args.gate_logit = optional(2);
  args.target = optional(3);
  args.readout = optional(4);
  args.direction_norm = optional(5);
  args.tokens = problem.tokens;
  args.width = problem.width;
  args.value_channels = problem.value_channels;
  args.direction_eps = problem.direction_eps;
  args.target_scale = problem.target_scale;

  const char* error = nullptr;
  device.Run([&](const ddl::Execution& execution) { error = backend.run(args, execution); });
  ++group->cases;
  const auto fail = [&](const std::string& what) {
    if (group->failure.empty()) group->failure = problem.Shape() + ": " + what;
  };
  if (error) return fail(error);

  const check::Solution solution = check::Solve(problem);
  const int compared = variant == Variant::kStateOnly ? 1 : kOutputs;
  for (int i = 0; i < compared; ++i) {
    std::vector<float> actual;
    if (!(i == 0 ? new_state : *outputs[i]).Read(&actual)) fail(std::string("wrote behind ") + check::kOutputNames[i]);
    const double worst = check::Error(problem, solution.outputs[i], actual);
    group->worst[i] = std::max(group->worst[i], worst);
    if (!(worst <= kTolerance)) fail(std::string(check::kOutputNames[i]) + " is wrong");
  }
}

std::vector<Group> CheckBackend(const ddl::Backend& backend, check::Device& device) {
  std::vector<Group> groups;
  for (const Variant variant : {Variant::kApart, Variant::kInPlace}) {
    Group group = {variant == Variant::kApart ? "shapes" : "shapes, in place"};
    for (const std::int64_t tokens : {0, 1, 3, 65}) {
      for (const std::int64_t width : {1, 7, 33, 64, 100, 768}) {
        for (std::int64_t channels = 1; channels <= 9; ++channels) {
          CheckCase(backend, device, check::MakeProblem(tokens, width, channels, Values::kNormal), variant, &group);
        }
      }
    }
    groups.push_back(group);
  }

  Group large = {"wide and many channels"};
  for (const auto& [width, channels] : {std::pair(5000, 1), std::pair(4096, 4), std::pair(20000, 2), std::pair(9000, 8),
                                        std::pair(40, 64), std::pair(33, 301)}) {
    CheckCase(backend, device, check::MakeProblem(2, width, channels, Values::kNormal), Variant::kApart, &large);
  }
  groups.push_back(large);

  Group many = {"many tokens"};
  CheckCase(backend, device, check::MakeProblem(9001, 12, 4, Values::kNormal), Variant::kApart, &many);
  CheckCase(backend, device, check::MakeProblem(9001, 5, 3, Values::kNormal), Variant::kInPlace, &many);
  groups.push_back(many);

  Group target = {"squashed target"};
  Group extreme = {"extreme values"};
  Group offset = {"off by one float"};
  Group state_only = {"state only"};
  for (const std::int64_t width : {33, 768}) {
    for (const std::int64_t channels : {1, 2, 3, 4, 8}) {
      Problem problem = check::MakeProblem(3, width, channels, Values::kNormal);
      CheckCase(backend, device, problem, Variant::kOffByOneFloat, &offset);
      CheckCase(backend, device, problem, Variant::kStateOnly, &state_only);
      problem.target_scale = 4.0f;
      CheckCase(backend, device, problem, Variant::kApart, &target);
      problem.target_scale = -1.0f;  // linear, as 0
      CheckCase(backend, device, problem, Variant::kApart, &target);
      for (const Values values : check::kExtremeValues) {
        CheckCase(backend, device, check::MakeProblem(3, width, channels, values), Variant::kApart, &extreme);
      }
    }
  }
  groups.insert(groups.end(), {target, extreme, offset, state_only});
  return groups;
}

// Prints the rows of a backend; returns whether all hold.
bool Report(const ddl::Backend& backend, const std::vector<Group>& groups) {
  bool good = true;
  for (const Group& group : groups) {
    std::printf("%-10s %-23s %5d", backend.name, group.name, group.cases);
    for (const double worst : group.worst) std::printf("  %14.1e", worst);
    std::printf("  %s\n", group.failure.empty() ? "ok" : ("FAILED at " + group.failure).c_str());
    good = good && group.failure.empty();
  }
  return good;
}

}  // namespace

int main(int count, char** arguments) {
  bool require_cuda = false;
  bool bench = false;
  for (int i = 1; i < count; ++i) {
    if (!std::strcmp(arguments[i], "--require-cuda")) {
      require_cuda = true;
    } else if (!std::strcmp(arguments[i], "--bench")) {
      bench = true;
    } else {
      std::fprintf(stderr, "usage: %s [--require-cuda] [--bench]\n", arguments[0]);
      return 2;
    }
  }

  struct Candidate {
    const ddl::Backend* backend;
    check::Device* device;
  };
  const std::unique_ptr<check::Device> host = check::MakeHost();
  std::vector<Candidate> candidates;
  std::size_t levels = 0;
  const ddl::Backend* cpu = ddl::CpuBackends(&levels);
  for (std::size_t i = 0; i < levels; ++i) candidates.push_back({cpu + i, host.get()});
  std::string description;
  const std::unique_ptr<check::Device> card = check::MakeCard(&description);
#ifdef DDL_WITH_CUDA
  if (card) candidates.push_back({&ddl::CudaBackend(), card.get()});
#endif

  std::printf("Largest error against float64, in units of each token's largest value (at least 1); allowed: %.0e\n",
              kTolerance);
  std::printf("%-10s %-23s %5s", "backend", "inputs", "cases");
  for (const char* name : check::kOutputNames) std::printf("  %14s", name);
  std::printf("\n");
  bool good = true;
  for (const auto& [backend, device] : candidates) good = Report(*backend, CheckBackend(*backend, *device)) && good;
  std::printf("cuda: %s%s\n", card ? "" : "not run: ", description.c_str());
  if (bench) {
    for (const auto& [backend, device] : candidates) check::PrintSpeed(*backend, *device);
  }
  return good && (card || !require_cuda) ? 0 : 1;
}
