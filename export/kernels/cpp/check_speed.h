// How long a backend takes, beside a copy of as many bytes on the same device.
#pragma once

#include "check_memory.h"
#include "delta.h"

namespace check {

// Prints one JSON object for each type, shape and kind of work: seconds, and their ratio to a copy of the state.
void PrintSpeed(const ddl::Backend& backend, Device& device);

}  // namespace check
