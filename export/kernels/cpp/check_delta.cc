// Holds every backend of this build against the float64 reference; exits with 1 where one fails.
//
//     check_delta [--require-cuda] [--bench]
//
// --require-cuda: a machine without a usable card fails, instead of leaving the CUDA backend out.
// --bench: prints the speed of the fastest CPU backend and of the card afterwards, one JSON object per line.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check_cases.h"
#include "check_memory.h"
#include "check_numbers.h"
#include "check_problem.h"
#include "check_solve.h"
#include "check_speed.h"
#include "check_types.h"
#include "delta.h"

namespace {

using check::Case;
using check::kInputs;
using check::kOutputs;
using check::Problem;
using check::Variant;

struct Candidate {
  const ddl::Backend* backend;
  check::Device* device;
};

// One row of the printed table.
struct Result {
  int runs = 0;
  double worst[kOutputs] = {};
  std::string failure = {};
};

// Numbers of one type in a device's memory, with a margin that must stay as it is.
class Buffer {
 public:
  Buffer(check::Device& device, ddl::Type type, std::size_t count, bool odd)
      : device_(device), type_(type), bytes_(count * check::Size(type)) {
    memory_ = static_cast<char*>(device.Allocate(bytes_ + kMargin + check::Size(type)));
    begin_ = memory_ + (odd ? check::Size(type) : 0);
    const std::vector<char> values(bytes_ + kMargin, kUnwritten);
    device_.Upload(begin_, values.data(), values.size());
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { device_.Free(memory_); }

  void* begin() const { return begin_; }
  void Write(const std::vector<float>& values) {
    const std::vector<char> encoded = check::Encode(type_, values);
    device_.Upload(begin_, encoded.data(), encoded.size());
  }

  // Returns false where the margin was written to.
  bool Read(std::vector<float>* values) const {
    std::vector<char> bytes(bytes_ + kMargin);
    device_.Download(bytes.data(), begin_, bytes.size());
    const bool kept = std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(bytes_), bytes.end(),
                                  [](char byte) { return byte == kUnwritten; });
    bytes.resize(bytes_);
    *values = check::Decode(type_, bytes);
    return kept;
  }

 private:
  static constexpr std::size_t kMargin = 256;
  static constexpr char kUnwritten = 0x5a;

  check::Device& device_;
  ddl::Type type_;
  std::size_t bytes_;
  char* memory_;
  char* begin_;
};

bool IsWanted(Variant variant, int output) {
  if (variant == Variant::kStateOnly) return output == check::kNewState;
  if (variant == Variant::kWithoutState) return output != check::kNewState && output != check::kCompressed;
  return true;
}

void Run(const Candidate& candidate, const Problem& problem, const check::Solution& solution, Variant variant,
         Result* result) {
  const bool odd = variant == Variant::kOffByOne;
  std::unique_ptr<Buffer> inputs[kInputs], outputs[kOutputs];
  void* input_data[kInputs] = {};
  void* output_data[kOutputs] = {};
  for (int i = 0; i < kInputs; ++i) {
    const ddl::Type type = i == check::kOverride ? ddl::Type::kFloat32 : problem.type;
    inputs[i] = std::make_unique<Buffer>(*candidate.device, type, problem.inputs[i].size(), odd);
    inputs[i]->Write(problem.inputs[i]);
    input_data[i] = inputs[i]->begin();
  }
  for (int i = 0; i < kOutputs; ++i) {
    if (problem.OutputSize(i) == 0 || !IsWanted(variant, i)) continue;
    if (i == check::kNewState && variant == Variant::kInPlace) {
      outputs[i] = std::move(inputs[check::kState]);
    } else {
      outputs[i] = std::make_unique<Buffer>(*candidate.device, problem.OutputType(i),
                                            static_cast<std::size_t>(problem.OutputSize(i)), odd);
    }
    output_data[i] = outputs[i]->begin();
  }

  const check::Arguments arguments(problem, input_data, output_data);
  const char* error = nullptr;
  candidate.device->Run(
      [&](const ddl::Execution& execution) { error = candidate.backend->run(arguments.args(), execution); });
  ++result->runs;
  const auto fail = [&](const std::string& what) {
    if (result->failure.empty()) result->failure = problem.Text() + ": " + what;
  };
  if (error) return fail(error);
  for (int i = 0; i < kOutputs; ++i) {
    if (!outputs[i]) continue;
    std::vector<float> actual;
    if (!outputs[i]->Read(&actual)) fail(std::string("wrote behind ") + check::kOutputNames[i]);
    const double worst = check::Error(problem, solution.outputs[i], actual);
    result->worst[i] = std::max(result->worst[i], worst);
    if (!(worst <= check::Tolerance(problem, i))) fail(std::string(check::kOutputNames[i]) + " is wrong");
  }
}

// A card has no order of blocks: one that compresses tokens cannot know whether those before are rewritten already.
bool CanRun(const Candidate& candidate, const Problem& problem, Variant variant) {
  const bool cpu = !std::strcmp(candidate.backend->provider, "CPUExecutionProvider");
  return cpu || problem.taps == 1 || variant != Variant::kInPlace;
}

// Prints one row for each candidate and type; returns whether all hold.
bool CheckGroup(const check::Group& group, const std::vector<Candidate>& candidates) {
  std::vector<Result> results(candidates.size() * std::size(check::kTypes));
  for (const Case& one : group.cases) {
    const Problem problem = check::Filled(one.problem);
    const check::Solution solution = check::Solve(problem);
    for (std::size_t c = 0; c < candidates.size(); ++c) {
      Result& result = results[c * std::size(check::kTypes) + static_cast<std::size_t>(problem.type)];
      for (const Variant variant : one.variants) {
        if (CanRun(candidates[c], problem, variant)) Run(candidates[c], problem, solution, variant, &result);
      }
    }
  }
  bool good = true;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Result& result = results[i];
    if (!result.runs) continue;
    const ddl::Type type = check::kTypes[i % std::size(check::kTypes)];
    std::printf("%-24s %-9s %-8s %5d", group.name, candidates[i / std::size(check::kTypes)].backend->name,
                check::Name(type), result.runs);
    for (const double worst : result.worst) std::printf("  %7.1e", worst);
    std::printf("  %s\n", result.failure.empty() ? "ok" : ("FAILED at " + result.failure).c_str());
    good = good && result.failure.empty();
  }
  std::fflush(stdout);
  return good;
}

// Every number of the 16-bit types, to the last bit. On the CPU alone: a card may compute the length of a direction to
// within a few bits.
bool CheckAllNumbers(const std::vector<Candidate>& candidates) {
  bool good = true;
  for (const auto& [backend, device] : candidates) {
    if (std::strcmp(backend->provider, "CPUExecutionProvider")) continue;
    for (const ddl::Type type : {ddl::Type::kFloat16, ddl::Type::kBFloat16}) {
      const std::string failure = check::CheckNumbers(*backend, *device, type);
      std::printf("%-24s %-9s %-8s %s\n", "all numbers", backend->name, check::Name(type),
                  failure.empty() ? "ok" : ("FAILED: " + failure).c_str());
      good = good && failure.empty();
    }
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

  std::printf("Largest error against float64, in units of each token's largest value (at least 1)\n");
  std::printf("%-24s %-9s %-8s %5s", "inputs", "backend", "type", "runs");
  for (const char* name : check::kOutputNames) std::printf("  %7.7s", name);
  std::printf("\n");
  bool good = true;
  for (const check::Group& group : check::AllGroups()) good = CheckGroup(group, candidates) && good;
  good = CheckAllNumbers(candidates) && good;
  std::printf("cuda: %s%s\n", card ? "" : "not run: ", description.c_str());
  if (bench) {
    check::PrintSpeed(*candidates.front().backend, *host);
    if (card) check::PrintSpeed(*candidates.back().backend, *card);
  }
  return good && (card || !require_cuda) ? 0 : 1;
}
