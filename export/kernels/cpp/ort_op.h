// An operator for one type on one device, as ONNX Runtime sees it.
#pragma once

#include "delta.h"
#include "ort_abi.h"
#include "ort_contract.h"
#include "ort_kernel.h"

namespace ddl {

// ONNX Runtime keeps the address: it must outlive every session. Operators of one name must be alike but for their
// types and devices.
struct DeltaOp : ort::CustomOp {
  DeltaOp(const Operator& op, const Backend& backend, Type type, const Runtime& runtime);

  const Operator& op;
  Backend backend;
  Type type;
  Runtime runtime;
};

}  // namespace ddl
