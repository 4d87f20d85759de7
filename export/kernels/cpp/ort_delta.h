// The delta rewrite as an operator of ONNX Runtime: its contract in C++, equal to export/onnx_delta.py.
#pragma once

#include "delta.h"
#include "ort_abi.h"

namespace ddl {

constexpr const char* kDomain = "ai.ddl";
constexpr const char* kOpName = "DeltaRewrite";
constexpr int kOpVersion = 1;

constexpr const char* kInputs[] = {"state",       "direction", "context",       "target_input",
                                   "gate_weight", "gate_bias", "target_weight", "target_bias"};
constexpr const char* kOutputs[] = {"new_state", "beta", "gate_logit", "target", "readout", "direction_norm"};
constexpr const char* kAttributes[] = {"direction_eps", "target_scale"};

// The operator with the kernel of one backend. ONNX Runtime keeps its address: it must outlive every session.
struct DeltaOp : ort::CustomOp {
  DeltaOp(const Backend& backend, const ort::ApiTable* table);

  Backend backend;
  ort::Api api;
};

}  // namespace ddl
