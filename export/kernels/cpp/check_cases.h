// Which problems a backend must solve, and how its memory is laid out.
#pragma once

#include <vector>

#include "check_problem.h"

namespace check {

enum class Variant {
  kApart,
  kInPlace,
  kOffByOne,      // nothing is aligned to more than its type
  kStateOnly,     // no output but the new state
  kWithoutState,  // neither the new state nor what it is compressed to
};

struct Case {
  Problem problem;  // not filled yet
  std::vector<Variant> variants;
};

struct Group {
  const char* name;
  std::vector<Case> cases;
};

std::vector<Group> AllGroups();

}  // namespace check
