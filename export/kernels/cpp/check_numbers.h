// Every number of a 16-bit type through a backend: read, added to, rounded.
#pragma once

#include <string>

#include "check_memory.h"
#include "delta.h"

namespace check {

// Rewrites states that hold every number of the type, by steps that a float32 sum takes without an error of its own.
// Returns what is wrong, or nothing.
std::string CheckNumbers(const ddl::Backend& backend, Device& device, ddl::Type type);

}  // namespace check
