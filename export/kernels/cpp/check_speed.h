// How long a backend takes, beside a copy of as many bytes on the same device.
#pragma once

#include "check_memory.h"
#include "delta.h"

namespace check {

// Prints one JSON object per shape: median and fastest seconds of the rewrite and of the copy.
void PrintSpeed(const ddl::Backend& backend, Device& device);

}  // namespace check
