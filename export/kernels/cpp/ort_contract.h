// The operators as tables: names, inputs, outputs, attributes. Equal to export/ops/contract.py, which explains them.
#pragma once

#include <cstddef>

namespace ddl {

constexpr const char* kDomain = "ai.ddl";

// What an input is for; its shape follows from that: ort_shapes.cc.
enum InputRole {
  kState,
  kDirection,
  kContext,
  kTargetInput,
  kGateWeight,
  kGateBias,
  kTargetWeight,
  kTargetBias,
  kHistory,
  kCompressWeight,
  kNormWeight,
  kOverride,
  kInputRoles
};

enum OutputRole {
  kNewState,
  kCompressed,
  kCompressedContext,
  kBeta,
  kGateLogit,
  kTarget,
  kReadout,
  kDirectionNorm,
  kOutputRoles
};

enum AttributeRole { kDirectionEps, kTargetScale, kErases, kNormEps, kAttributeRoles };

template <class Role>
struct Argument {
  Role role;
  const char* name;
};

template <class Role>
struct Arguments {
  const Argument<Role>* items;
  std::size_t count;
};

struct Operator {
  const char* name;
  Arguments<InputRole> inputs;  // kOverride is optional and the last, all others are required
  Arguments<OutputRole> outputs;
  Arguments<AttributeRole> attributes;  // kErases is optional
  bool rewrites;
  bool compresses;
  bool over_tokens;  // compresses over tokens as well, the state is (rows, tokens, width, value channels)
};

// A version of an operator as files name it. Newer versions extend older ones, so one kernel serves them all.
struct OperatorVersion {
  const Operator* op;
  int version;
  std::size_t attributes;  // the first ones
  bool takes_override;
  bool short_types;  // float16 and bfloat16, beside float32
};

constexpr std::size_t kOperatorCount = 5;
extern const Operator kOperators[kOperatorCount];
extern const OperatorVersion kOperatorVersions[kOperatorCount + 1];

}  // namespace ddl
