// Memory of the device that a backend computes on, and time spent there; the same calls for the CPU and for CUDA.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "delta.h"

namespace check {

class Device {
 public:
  virtual ~Device() = default;

  virtual void* Allocate(std::size_t bytes) = 0;  // aligned to 256
  virtual void Free(void* memory) = 0;
  virtual void Upload(void* to, const void* from, std::size_t bytes) = 0;
  virtual void Download(void* to, const void* from, std::size_t bytes) = 0;
  virtual void Copy(void* to, const void* from, std::size_t bytes) = 0;  // within the device; does not wait

  // Runs the work and waits for it. On a card it runs as a recorded graph, which fails if the work waits for the card.
  virtual void Run(const std::function<void(const ddl::Execution&)>& work) = 0;

  // Seconds that one of `repeats` repetitions of the work takes: on the CPU those that the process computed.
  virtual double Time(const std::function<void(const ddl::Execution&)>& work, int repeats) = 0;
};

std::unique_ptr<Device> MakeHost();

// Null, with the reason, where the build has no CUDA or the machine no usable card.
std::unique_ptr<Device> MakeCard(std::string* description);

}  // namespace check
