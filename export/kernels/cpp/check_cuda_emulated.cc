// Holds the CUDA kernels against float64 on the CPU, through the emulator: their arithmetic, shares and barriers, for
// the problems of check_delta that are small enough and some shapes that matter on a card. Exits with 1 where one
// fails.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check_cases.h"
#include "check_problem.h"
#include "check_solve.h"
#include "check_types.h"
#include "cuda_emulated.h"

namespace {

using check::kInputs;
using check::kOutputs;
using check::Problem;
using check::Variant;

constexpr std::int64_t kMostValues = 12000;  // of all states of a problem, for time's sake

// Two processors of a card. Few, so that blocks take several items; the smallest memory leaves no room for the weights.
constexpr ddl::cuda::Limits kCard = {2, 64 * 1024, 64 * 1024};
constexpr ddl::cuda::Limits kSmallCard = {1, 6 * 1024, 6 * 1024};

// Values of a type in memory that ends with them, so that a sanitizer sees what is read or written beyond.
class Buffer {
 public:
  Buffer(ddl::Type type, std::size_t count, bool odd)
      : type_(type), bytes_(count * check::Size(type)), odd_(odd ? check::Size(type) : 0) {
    memory_ = std::make_unique<char[]>(bytes_ + odd_);
    std::memset(memory_.get(), 0xff, bytes_ + odd_);  // NaN
  }
  void* begin() const { return memory_.get() + odd_; }
  void Write(const std::vector<float>& values) {
    const std::vector<char> encoded = check::Encode(type_, values);
    if (!encoded.empty()) std::memcpy(begin(), encoded.data(), encoded.size());
  }
  std::vector<float> Read() const {
    const char* const bytes = memory_.get() + odd_;
    return check::Decode(type_, {bytes, bytes + bytes_});
  }

 private:
  ddl::Type type_;
  std::size_t bytes_;
  std::size_t odd_;
  std::unique_ptr<char[]> memory_;
};

bool IsWanted(Variant variant, int output) {
  if (variant == Variant::kStateOnly) return output == check::kNewState;
  if (variant == Variant::kWithoutState) return output != check::kNewState && output != check::kCompressed;
  return true;
}

// Returns what went wrong, or nothing.
std::string Check(const Problem& problem, const check::Solution& solution, Variant variant,
                  const ddl::cuda::Limits& limits, emulator::Order order, double* worst) {
  const bool odd = variant == Variant::kOffByOne;
  std::unique_ptr<Buffer> inputs[kInputs], outputs[kOutputs];
  void* input_data[kInputs] = {};
  void* output_data[kOutputs] = {};
  for (int i = 0; i < kInputs; ++i) {
    const ddl::Type type = i == check::kOverride ? ddl::Type::kFloat32 : problem.type;
    inputs[i] = std::make_unique<Buffer>(type, problem.inputs[i].size(), odd);
    inputs[i]->Write(problem.inputs[i]);
    input_data[i] = inputs[i]->begin();
  }
  for (int i = 0; i < kOutputs; ++i) {
    if (problem.OutputSize(i) == 0 || !IsWanted(variant, i)) continue;
    outputs[i] =
        i == check::kNewState && variant == Variant::kInPlace
            ? std::move(inputs[check::kState])
            : std::make_unique<Buffer>(problem.OutputType(i), static_cast<std::size_t>(problem.OutputSize(i)), odd);
    output_data[i] = outputs[i]->begin();
  }
  const check::Arguments arguments(problem, input_data, output_data);
  const char* const error = ddl::cuda::RunEmulated(arguments.args(), limits, order);
  const bool refused = variant == Variant::kInPlace && problem.rewrites && problem.taps > 1 && problem.tokens > 0;
  if (refused) return error ? "" : "runs in place";
  if (error) return error;
  for (int i = 0; i < kOutputs; ++i) {
    if (!outputs[i]) continue;
    const double distance = check::Error(problem, solution.outputs[i], outputs[i]->Read());
    *worst = std::max(*worst, distance / check::Tolerance(problem, i));
    if (!(distance <= check::Tolerance(problem, i))) return std::string(check::kOutputNames[i]) + " is wrong";
  }
  return "";
}

struct Kind {
  bool rewrites;
  bool compresses;
  std::int64_t taps;
};

Problem Make(const Kind& kind, ddl::Type type, int channels) {
  Problem problem;
  problem.rewrites = kind.rewrites;
  problem.compresses = kind.compresses;
  problem.taps = kind.taps;
  problem.type = type;
  problem.value_channels = channels;
  return problem;
}

// Extreme values where the state is kept in registers. The middle token has them; with 3 tokens its override replaces
// the gate, with 11 it does not write.
check::Group Extreme() {
  check::Group group = {"extreme, in registers", {}};
  for (const ddl::Type type : check::kTypes) {
    for (const int channels : {1, 2, 4, 8}) {
      for (const Kind& kind : {Kind{true, false, 1}, Kind{true, true, 1}, Kind{true, true, 3}}) {
        for (int values = 0; values < check::kValues; ++values) {
          Problem problem = Make(kind, type, channels);
          problem.width = 48;
          problem.values = static_cast<check::Values>(values);
          group.cases.push_back({problem, {Variant::kApart}});
          problem.overrides = check::Overrides::kEach;
          for (const std::int64_t tokens : {3, 11}) {
            problem.tokens = tokens;
            group.cases.push_back({problem, {Variant::kStateOnly}});
          }
        }
      }
    }
  }
  return group;
}

// Directions for which h^T X / |h| is not good enough: it is beyond float32 although k^T X is not, or 0 by 0.
check::Group Lossy() {
  check::Group group = {"scaled direction", {}};
  for (const ddl::Type type : {ddl::Type::kFloat32, ddl::Type::kBFloat16}) {
    for (const int channels : {1, 2, 4, 8}) {
      for (const float eps : {1e-6f, 0.0f}) {
        Problem problem = Make({true, true, 1}, type, channels);
        problem.direction_eps = eps;
        group.cases.push_back({problem, {Variant::kApart}});
      }
    }
  }
  return group;
}

void Scale(Problem* problem) {
  const bool huge = problem->direction_eps > 0;
  for (float& h : problem->inputs[check::kDirection]) h = check::Round(problem->type, h * (huge ? 1e17f : 1e-30f));
  for (float& x : problem->inputs[check::kState]) x = check::Round(problem->type, x * (huge ? 1e25f : 1.0f));
}

// Teams of several warps, several rounds of a block, rows that end within a run, inputs wider than a round.
check::Group Teams() {
  check::Group group = {"teams of warps", {}};
  for (const ddl::Type type : check::kTypes) {
    for (const int channels : {1, 2, 4, 8, 3}) {
      for (const Kind& kind : {Kind{true, false, 1}, Kind{true, true, 1}, Kind{false, true, 1}, Kind{true, true, 4},
                               Kind{false, true, 3}}) {
        Problem problem = Make(kind, type, channels);
        problem.rows = 2;
        problem.tokens = 5;
        problem.width = channels == 3 ? 70 : 4000 / channels / 8 * 8;
        group.cases.push_back({problem, {Variant::kApart}});
        problem.width = 64;
        problem.gate_width = 1000;
        problem.target_width = 776;
        problem.overrides = check::Overrides::kEach;
        group.cases.push_back({problem, {Variant::kApart, Variant::kInPlace}});
      }
    }
  }
  return group;
}

}  // namespace

int main(int count, char** arguments) {
  const int every = count > 1 ? std::max(std::atoi(arguments[1]), 1) : 1;
  std::vector<check::Group> groups = check::AllGroups();
  for (check::Group& group : groups) {
    // Every fifth of very many: no list from which they are made has 5 members, so each member stays in.
    std::vector<check::Case> kept;
    for (std::size_t i = 0; i < group.cases.size(); i += group.cases.size() > 500 ? 5 : 1) {
      const Problem& problem = group.cases[i].problem;
      const std::int64_t values = problem.AllTokens() * problem.width * problem.value_channels;
      if (values <= kMostValues) kept.push_back(group.cases[i]);
    }
    group.cases = kept;
  }
  groups.push_back(Extreme());
  groups.push_back(Lossy());
  const char* const scaled = groups.back().name;
  groups.push_back(Teams());

  bool good = true;
  int turn = 0;
  int seen = 0;
  for (const check::Group& group : groups) {
    int runs = 0;
    double worst = 0;
    std::string failure;
    for (const check::Case& one : group.cases) {
      if (++seen % every != 0) continue;
      Problem problem = check::Filled(one.problem);
      if (group.name == scaled) Scale(&problem);
      const check::Solution solution = check::Solve(problem);
      for (const Variant variant : one.variants) {
        ++turn;
        const auto order = turn % 2 ? emulator::Order::kAscending : emulator::Order::kDescending;
        const std::string what = Check(problem, solution, variant, turn % 3 ? kCard : kSmallCard, order, &worst);
        if (!what.empty() && failure.empty()) failure = problem.Text() + ": " + what;
        ++runs;
      }
    }
    if (!runs) continue;
    std::printf("emulated CUDA  %-24s %5d  %4.0f%% of the tolerance  %s\n", group.name, runs, worst * 100,
                failure.empty() ? "ok" : ("FAILED at " + failure).c_str());
    std::fflush(stdout);
    good = good && failure.empty();
  }
  return good ? 0 : 1;
}
