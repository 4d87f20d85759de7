// One node of a session: between ONNX Runtime and a backend.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "delta.h"
#include "ort_abi.h"
#include "ort_contract.h"
#include "ort_shapes.h"

namespace ddl {

// What a runtime lends beyond the API version that is required.
struct Runtime {
  ort::Api api;
  bool has_shape_reference;  // GetTensorElementTypeAndShapeDataReference
  bool checks_output_index;  // SetOutputTypeShape, where a node leaves an optional output out
};

struct Attributes {
  float floats[kAttributeRoles];
  bool erases;
};

class Kernel {
 public:
  Kernel(const Operator& op, const Backend& backend, Type type, const Runtime& runtime, const Attributes& attributes);

  ort::Status* Compute(ort::KernelContext* context) const;

 private:
  // The arguments of one run by role; null and without a shape where the node leaves them out.
  struct Run;

  ort::Status* ReadInputs(const ort::KernelContext* context, Run* run) const;
  ort::Status* ReadShape(const ort::Value* value, std::size_t input, std::int64_t* storage, ShapeView* shape) const;
  ort::Status* MakeOutputs(ort::KernelContext* context, Run* run) const;
  ort::Status* Call(ort::KernelContext* context, const Run& run) const;
  ort::Status* Invalid(std::size_t input, const std::string& what) const;

  const Operator& op_;
  Backend backend_;
  Type type_;
  Runtime runtime_;
  Attributes attributes_;
  bool on_cpu_;
};

}  // namespace ddl
