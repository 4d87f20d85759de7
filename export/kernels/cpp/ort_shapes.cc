#include "ort_shapes.h"

namespace ddl {
namespace {

constexpr std::int64_t kOverrideFields = 6;

std::int64_t Product(const ShapeView& shape) {
  std::int64_t product = 1;
  for (std::size_t i = 0; i < shape.rank; ++i) product *= shape.sizes[i];
  return product;
}

std::string Text(const std::int64_t* sizes, std::size_t rank) {
  std::string text = "(";
  for (std::size_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + (rank == 1 ? ",)" : ")");
}
std::string Text(const ShapeView& shape) { return Text(shape.sizes, shape.rank); }

Shape With(const ShapeView& leading, std::int64_t last) {
  Shape shape;
  for (std::size_t i = 0; i < leading.rank; ++i) shape.Add(leading.sizes[i]);
  shape.Add(last);
  return shape;
}

// Not for an override, which may have two shapes.
Shape NeededShape(InputRole role, const Operator& op, const Sizes& sizes) {
  Shape shape;
  switch (role) {
    case kState:
      shape = With(sizes.leading, sizes.width);
      shape.Add(sizes.value_channels);
      break;
    case kDirection:
      return With(sizes.leading, sizes.width);
    case kContext:
      return With(sizes.leading, sizes.gate_width);
    case kTargetInput:
      return With(sizes.leading, sizes.target_width);
    case kGateWeight:
      shape.Add(1);
      shape.Add(sizes.gate_width);
      break;
    case kGateBias:
      shape.Add(1);
      break;
    case kTargetWeight:
      shape.Add(sizes.value_channels);
      shape.Add(sizes.target_width);
      break;
    case kTargetBias:
      shape.Add(sizes.value_channels);
      break;
    case kHistory:
      shape.Add(sizes.rows);
      shape.Add(sizes.taps - 1);
      shape.Add(sizes.width);
      shape.Add(sizes.value_channels);
      break;
    case kCompressWeight:
      shape.Add(sizes.width);
      shape.Add(sizes.value_channels);
      if (op.over_tokens) shape.Add(sizes.taps);
      break;
    case kNormWeight:
      shape.Add(sizes.width);
      break;
    case kOverride:
    case kInputRoles:
      break;
  }
  return shape;
}

}  // namespace

Sizes ReadSizes(const Operator& op, const ShapeView (&inputs)[kInputRoles]) {
  const ShapeView& state = inputs[kState];
  Sizes sizes = {};
  sizes.leading = {state.sizes, state.rank - 2};
  sizes.width = state.FromEnd(1);
  sizes.value_channels = state.FromEnd(0);
  sizes.gate_width = inputs[kContext].FromEnd(0);
  sizes.target_width = inputs[kTargetInput].FromEnd(0);
  sizes.taps = op.over_tokens ? inputs[kCompressWeight].FromEnd(0) : 1;
  sizes.rows = op.over_tokens ? sizes.leading.sizes[0] : 1;
  sizes.tokens = op.over_tokens ? sizes.leading.sizes[1] : Product(sizes.leading);
  if (inputs[kOverride].rank) sizes.override_count = Product(inputs[kOverride]) / kOverrideFields;
  return sizes;
}

bool Fits(InputRole role, const Operator& op, const Sizes& sizes, const ShapeView& shape) {
  if (role == kOverride && shape.FromEnd(0) == kOverrideFields && Product(shape) == kOverrideFields) return true;
  const Shape needed = role == kOverride ? With(sizes.leading, kOverrideFields) : NeededShape(role, op, sizes);
  bool equal = shape.rank == needed.rank;
  for (std::size_t i = 0; equal && i < needed.rank; ++i) equal = shape.sizes[i] == needed.sizes[i];
  return equal && (role != kCompressWeight || sizes.taps > 0);
}

Shape OutputShape(OutputRole role, const Sizes& sizes) {
  Shape shape;
  for (std::size_t i = 0; i < sizes.leading.rank; ++i) shape.Add(sizes.leading.sizes[i]);
  switch (role) {
    case kNewState:
      shape.Add(sizes.width);
      shape.Add(sizes.value_channels);
      break;
    case kCompressed:
    case kCompressedContext:
      shape.Add(sizes.width);
      break;
    case kTarget:
    case kReadout:
      shape.Add(sizes.value_channels);
      break;
    case kBeta:
    case kGateLogit:
    case kDirectionNorm:
    case kOutputRoles:
      break;
  }
  return shape;
}

std::string StateProblem(const Operator& op, const ShapeView& state) {
  return "has shape " + Text(state) + ", needed is " +
         (op.over_tokens ? "(rows, tokens, width, value channels)" : "(..., width, value channels)");
}

std::string FitProblem(InputRole role, const Operator& op, const Sizes& sizes, const ShapeView (&inputs)[kInputRoles]) {
  const std::string given = "has shape " + Text(inputs[role]) + ", needed is ";
  const std::string because = " because state has shape " + Text(inputs[kState]);
  if (role == kOverride) {
    const Shape each = With(sizes.leading, kOverrideFields);
    return given + "6 numbers in all, or " + Text(each.sizes, each.rank) + because;
  }
  if (role == kCompressWeight && sizes.taps < 1) return given + "at least one tap";
  const Shape needed = NeededShape(role, op, sizes);
  std::string text = given + Text(needed.sizes, needed.rank) + because;
  if (role == kGateWeight) text += " and context " + Text(inputs[kContext]);
  if (role == kTargetWeight) text += " and target_input " + Text(inputs[kTargetInput]);
  if (role == kHistory) text += " and the weight " + Text(inputs[kCompressWeight]);
  return text;
}

}  // namespace ddl
