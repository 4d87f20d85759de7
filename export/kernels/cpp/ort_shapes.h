// The shapes of an operator's arguments, which all follow from that of the state and a few of the inputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "ort_contract.h"

namespace ddl {

constexpr std::size_t kMaxRank = 16;

// A shape somewhere else.
struct ShapeView {
  const std::int64_t* sizes = nullptr;
  std::size_t rank = 0;

  std::int64_t FromEnd(std::size_t index) const { return index < rank ? sizes[rank - 1 - index] : 0; }
};

struct Shape {
  std::int64_t sizes[kMaxRank];
  std::size_t rank = 0;

  void Add(std::int64_t size) { sizes[rank++] = size; }
};

// The sizes that one node's arguments share.
struct Sizes {
  ShapeView leading;  // of the state, without width and value channels
  std::int64_t width;
  std::int64_t value_channels;
  std::int64_t gate_width;
  std::int64_t target_width;
  std::int64_t taps;
  std::int64_t rows;
  std::int64_t tokens;          // of each row; a state without rows is one
  std::int64_t override_count;  // 0: the node has none
};

// Reads the sizes from the shapes of the inputs that the node has. The state has an axis for width and one for value
// channels, and two more where the operator works over tokens: see StateProblem.
Sizes ReadSizes(const Operator& op, const ShapeView (&inputs)[kInputRoles]);

// Whether an input has the shape that it needs.
bool Fits(InputRole role, const Operator& op, const Sizes& sizes, const ShapeView& shape);

Shape OutputShape(OutputRole role, const Sizes& sizes);

// What to say where the state has too few axes, or an input does not fit: the text after the input's name.
std::string StateProblem(const Operator& op, const ShapeView& state);
std::string FitProblem(InputRole role, const Operator& op, const Sizes& sizes, const ShapeView (&inputs)[kInputRoles]);

}  // namespace ddl
