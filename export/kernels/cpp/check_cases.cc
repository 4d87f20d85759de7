#include "check_cases.h"

#include "check_types.h"

namespace check {
namespace {

constexpr std::int64_t kMaxChannels = 9;  // up to 8 have their own code; 9 runs in strips

// What a call does, in the order of the ops.
struct Kind {
  bool rewrites;
  bool compresses;
  std::int64_t taps;
};
constexpr Kind kRewrite = {true, false, 1};
constexpr Kind kCompress = {false, true, 1};
constexpr Kind kTokenCompress = {false, true, 4};
constexpr Kind kBoth = {true, true, 1};
constexpr Kind kBothTaps = {true, true, 4};
constexpr Kind kKinds[] = {kRewrite, kCompress, kTokenCompress, kBoth, kBothTaps};

Problem Make(Kind kind, ddl::Type type, std::int64_t rows, std::int64_t tokens, std::int64_t width,
             std::int64_t channels) {
  Problem problem;
  problem.rewrites = kind.rewrites;
  problem.compresses = kind.compresses;
  problem.taps = kind.taps;
  problem.type = type;
  problem.rows = rows;
  problem.tokens = tokens;
  problem.width = width;
  problem.value_channels = channels;
  return problem;
}

std::vector<Variant> VariantsOf(Kind kind) {
  if (!kind.rewrites) return {Variant::kApart};
  return {Variant::kApart, Variant::kInPlace};
}

Group Shapes() {
  Group group = {"shapes", {}};
  for (const std::int64_t tokens : {0, 1, 3, 65}) {
    for (const std::int64_t width : {1, 7, 33, 64, 100, 768}) {
      for (std::int64_t channels = 1; channels <= kMaxChannels; ++channels) {
        if (tokens == 65 && width == 768 && channels % 4 != 0) continue;  // for time's sake
        group.cases.push_back({Make(kRewrite, ddl::Type::kFloat32, 1, tokens, width, channels), VariantsOf(kRewrite)});
      }
    }
  }
  return group;
}

Group Ops() {
  Group group = {"ops and types", {}};
  for (const ddl::Type type : kTypes) {
    for (const Kind& kind : kKinds) {
      for (const std::int64_t tokens : {0, 1, 3}) {
        for (const std::int64_t width : {16, 37, 129}) {
          for (std::int64_t channels = 1; channels <= kMaxChannels; ++channels) {
            group.cases.push_back({Make(kind, type, 2, tokens, width, channels), VariantsOf(kind)});
          }
        }
      }
      for (const std::int64_t channels : {1, 3, 4, 11}) {  // narrower than a vector
        group.cases.push_back({Make(kind, type, 1, 2, 5, channels), VariantsOf(kind)});
      }
    }
  }
  return group;
}

Group Taps() {
  Group group = {"taps and rows", {}};
  for (const ddl::Type type : kTypes) {
    for (const bool rewrites : {false, true}) {
      for (const std::int64_t taps : {2, 3, 4, 5}) {
        for (const std::int64_t tokens : {1, 4, 9}) {
          const Kind kind = {rewrites, true, taps};
          group.cases.push_back({Make(kind, type, 3, tokens, 40, 2), VariantsOf(kind)});
        }
      }
    }
  }
  return group;
}

Group Large() {
  Group group = {"many tokens or channels", {}};
  for (const ddl::Type type : kTypes) {
    for (const Kind& kind : {kRewrite, kBoth, kBothTaps}) {
      group.cases.push_back({Make(kind, type, 1, 2001, 24, 4), VariantsOf(kind)});
      group.cases.push_back({Make(kind, type, 2, 801, 37, 3), VariantsOf(kind)});
      group.cases.push_back({Make(kind, type, 1, 2, 33, 301), VariantsOf(kind)});
    }
    group.cases.push_back({Make(kBoth, type, 1, 2, 9000, 2), {Variant::kApart}});
    group.cases.push_back({Make(kTokenCompress, type, 2, 700, 40, 4), {Variant::kApart}});
  }
  for (const std::int64_t taps : {2, 9}) {  // chunks shorter than the taps
    const Kind kind = {true, true, taps};
    group.cases.push_back({Make(kind, ddl::Type::kFloat32, 2, 23, 9000, 4), VariantsOf(kind)});
  }
  for (const auto& [width, channels] :
       {std::pair(5000, 1), std::pair(4096, 4), std::pair(20000, 2), std::pair(9000, 8), std::pair(40, 64)}) {
    group.cases.push_back({Make(kRewrite, ddl::Type::kFloat32, 1, 2, width, channels), {Variant::kApart}});
  }
  return group;
}

// New states that are large enough to go past the caches.
Group Streamed() {
  Group group = {"streamed", {}};
  for (const ddl::Type type : kTypes) {
    const std::int64_t tokens = type == ddl::Type::kFloat32 ? 1100 : 2200;
    for (const Kind& kind : {kRewrite, kBoth}) {
      group.cases.push_back({Make(kind, type, 1, tokens, 1000, 4), {Variant::kApart}});
    }
  }
  return group;
}

Group Memory() {
  Group group = {"memory", {}};
  for (const ddl::Type type : kTypes) {
    for (const Kind& kind : kKinds) {
      for (const std::int64_t width : {33, 96}) {
        for (const std::int64_t channels : {1, 2, 3, 4, 8, 9}) {
          std::vector<Variant> variants = {Variant::kOffByOne};
          if (kind.rewrites) variants.push_back(Variant::kStateOnly);
          if (kind.taps == 1 || !kind.rewrites) variants.push_back(Variant::kWithoutState);
          group.cases.push_back({Make(kind, type, 1, 3, width, channels), variants});
        }
      }
    }
  }
  return group;
}

Group Options() {
  Group group = {"options", {}};
  for (const ddl::Type type : kTypes) {
    for (const Kind& kind : {kRewrite, kBoth, kBothTaps}) {
      for (const std::int64_t channels : {1, 3, 4, 9}) {
        const Problem plain = Make(kind, type, 2, 8, 48, channels);
        const auto add = [&](const auto& change) {
          Problem problem = plain;
          change(problem);
          group.cases.push_back({problem, VariantsOf(kind)});
        };
        add([](Problem& problem) { problem.target_scale = 4.0f; });
        add([](Problem& problem) { problem.target_scale = -1.0f; });  // linear, as 0
        add([](Problem& problem) { problem.erases = false; });
        add([](Problem& problem) { problem.overrides = Overrides::kShared; });
        add([](Problem& problem) { problem.overrides = Overrides::kEach; });
        add([](Problem& problem) {
          problem.overrides = Overrides::kEach;
          problem.erases = false;
        });
        add([](Problem& problem) {
          problem.gate_width = 7;
          problem.target_width = 81;
        });
      }
    }
  }
  return group;
}

Group Extreme() {
  Group group = {"extreme values", {}};
  for (const ddl::Type type : kTypes) {
    for (const Kind& kind : kKinds) {
      for (const std::int64_t channels : {1, 2, 3, 4, 8, 9}) {
        for (int values = 0; values < kValues; ++values) {
          Problem problem = Make(kind, type, 1, 8, 33, channels);
          problem.values = static_cast<Values>(values);
          group.cases.push_back({problem, {Variant::kApart}});
          if (!kind.rewrites) continue;
          // A factor of 0 keeps NaN out.
          problem.overrides = Overrides::kEach;
          group.cases.push_back({problem, {Variant::kInPlace}});
        }
      }
    }
  }
  return group;
}

}  // namespace

std::vector<Group> AllGroups() {
  return {Shapes(), Ops(), Taps(), Large(), Streamed(), Memory(), Options(), Extreme()};
}

}  // namespace check
