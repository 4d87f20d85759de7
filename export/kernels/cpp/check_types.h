// Numbers of the types that a backend computes with, to and from float64. Slow and plain: nothing here is shared with
// what it checks.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "delta.h"

namespace check {

extern const ddl::Type kTypes[3];

const char* Name(ddl::Type type);
std::size_t Size(ddl::Type type);  // bytes

// The nearest number of the type, the even one of two; infinity beyond the largest.
double Round(ddl::Type type, double value);

std::vector<char> Encode(ddl::Type type, const std::vector<float>& values);
std::vector<float> Decode(ddl::Type type, const std::vector<char>& bytes);

}  // namespace check
