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

  virtual float* Allocate(std::size_t count) = 0;  // floats, aligned to 256 bytes
  virtual void Free(float* memory) = 0;
  virtual void Upload(float* to, const float* from, std::size_t count) = 0;
  virtual void Download(float* to, const float* from, std::size_t count) = 0;
  virtual void Copy(float* to, const float* from, std::size_t count) = 0;  // within the device; does not wait

  // Runs the work and waits for it. On a card it runs as a recorded graph, which fails if the work waits for the card.
  virtual void Run(const std::function<void(const ddl::Execution&)>& work) = 0;

  // Seconds that one of `repeats` repetitions of the work takes.
  virtual double Time(const std::function<void(const ddl::Execution&)>& work, int repeats) = 0;
};

std::unique_ptr<Device> MakeHost();

// Null, with the reason, where the build has no CUDA or the machine no usable card.
std::unique_ptr<Device> MakeCard(std::string* description);

}  // namespace check
