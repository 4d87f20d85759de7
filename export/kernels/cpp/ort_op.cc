#include "ort_op.h"

#include <cstring>
#include <limits>
#include <new>

namespace ddl {
namespace {

using ort::Status;

const DeltaOp& Op(const ort::CustomOp* op) { return *static_cast<const DeltaOp*>(op); }

ort::ElementType ElementTypeOf(Type type) {
  constexpr ort::ElementType kTypes[] = {ort::kFloat, ort::kFloat16, ort::kBFloat16};
  return kTypes[static_cast<int>(type)];
}

bool IsTrace(OutputRole role) { return role != kNewState && role != kCompressed && role != kCompressedContext; }

Status* MakeKernel(const ort::CustomOp* custom_op, const ort::ApiTable*, const ort::KernelInfo* info, void** kernel) {
  const DeltaOp& op = Op(custom_op);
  const ort::Api& api = op.runtime.api;
  Attributes attributes = {};
  attributes.erases = true;
  for (std::size_t i = 0; i < op.op.attributes.count; ++i) {
    const auto [role, name] = op.op.attributes.items[i];
    if (role == kErases) {
      std::int64_t erases = 1;
      if (Status* absent = api.KernelInfoGetAttribute_int64(info, name, &erases)) api.ReleaseStatus(absent);
      attributes.erases = erases != 0;
    } else {
      DDL_RETURN_IF_ERROR(api.KernelInfoGetAttribute_float(info, name, &attributes.floats[role]));
    }
  }
  *kernel = new (std::nothrow) Kernel(op.op, op.backend, op.type, op.runtime, attributes);
  return *kernel ? nullptr : api.CreateStatus(ort::kFail, "out of memory");
}

// A shape before the run: sizes, and names where they are open.
struct OpenShape {
  std::int64_t sizes[kMaxRank];
  const char* names[kMaxRank];
  std::size_t rank = 0;

  void Add(std::int64_t size, const char* name) {
    sizes[rank] = size;
    names[rank++] = name;
  }
};

Status* SetShape(const ort::Api& api, ort::ShapeInferContext* context, std::size_t output, ort::ElementType type,
                 OpenShape& shape) {
  ort::TensorTypeAndShapeInfo* info = nullptr;
  DDL_RETURN_IF_ERROR(api.CreateTensorTypeAndShapeInfo(&info));
  Status* status = api.SetTensorElementType(info, type);
  if (!status) status = api.SetDimensions(info, shape.sizes, shape.rank);
  if (!status) status = api.SetSymbolicDimensions(info, shape.names, shape.rank);
  if (!status) status = api.ShapeInferContext_SetOutputTypeShape(context, output, info);
  api.ReleaseTensorTypeAndShapeInfo(info);
  return status;
}

// Says which types and shapes the outputs have, names of open sizes included: only then does the runtime let the new
// state reuse the state's buffer. A node may leave outputs out; runtimes before kCheckedShapeOutputVersion abort where
// one behind the node's last is set, so they are told only of the first, which every node has room for. The runtime
// asks the first operator of a name for all of them, so the type is the state's and not this operator's.
Status* InferShapes(const ort::CustomOp* custom_op, ort::ShapeInferContext* context) {
  const DeltaOp& op = Op(custom_op);
  const ort::Api& api = op.runtime.api;
  ort::TensorTypeAndShapeInfo* state = nullptr;  // the context's
  DDL_RETURN_IF_ERROR(api.ShapeInferContext_GetInputTypeShape(context, 0, &state));
  ort::ElementType type;
  DDL_RETURN_IF_ERROR(api.GetTensorElementType(state, &type));
  OpenShape whole;
  DDL_RETURN_IF_ERROR(api.GetDimensionsCount(state, &whole.rank));
  if (whole.rank < 2 || whole.rank > kMaxRank) return nullptr;  // not known before the run, or refused then
  DDL_RETURN_IF_ERROR(api.GetDimensions(state, whole.sizes, whole.rank));
  DDL_RETURN_IF_ERROR(api.GetSymbolicDimensions(state, whole.names, whole.rank));
  for (std::size_t i = 0; i < whole.rank; ++i) {
    if (whole.sizes[i] < 0 && !*whole.names[i]) return nullptr;  // an open size without a name cannot be passed on
  }
  Sizes sizes = {};
  sizes.leading = {whole.sizes, whole.rank - 2};
  const std::size_t width = whole.rank - 2;
  const std::size_t channels = whole.rank - 1;
  const std::size_t count = op.runtime.checks_output_index ? op.op.outputs.count : 1;
  for (std::size_t i = 0; i < count; ++i) {
    const OutputRole role = op.op.outputs.items[i].role;
    OpenShape shape;
    for (std::size_t axis = 0; axis < width; ++axis) shape.Add(whole.sizes[axis], whole.names[axis]);
    if (!IsTrace(role)) shape.Add(whole.sizes[width], whole.names[width]);
    if (role == kNewState || role == kTarget || role == kReadout)
      shape.Add(whole.sizes[channels], whole.names[channels]);
    Status* status = SetShape(api, context, i, IsTrace(role) ? ort::kFloat : type, shape);
    if (status && i == 0) return status;
    if (status) api.ReleaseStatus(status);  // the node leaves it out
  }
  return nullptr;
}

}  // namespace

DeltaOp::DeltaOp(const Operator& contract, const Backend& chosen, Type element, const Runtime& lent)
    : CustomOp{}, op(contract), backend(chosen), type(element), runtime(lent) {
  version = ort::kApiVersion;
  GetName = [](const ort::CustomOp* self) { return Op(self).op.name; };
  GetExecutionProviderType = [](const ort::CustomOp* self) { return Op(self).backend.provider; };
  GetInputTypeCount = [](const ort::CustomOp* self) { return Op(self).op.inputs.count; };
  GetInputType = [](const ort::CustomOp* self, std::size_t i) {
    return Op(self).op.inputs.items[i].role == kOverride ? ort::kFloat : ElementTypeOf(Op(self).type);
  };
  GetInputCharacteristic = [](const ort::CustomOp* self, std::size_t i) {
    return Op(self).op.inputs.items[i].role == kOverride ? ort::kOptional : ort::kRequired;
  };
  GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return ort::kDefault; };
  GetOutputTypeCount = [](const ort::CustomOp* self) { return Op(self).op.outputs.count; };
  GetOutputType = [](const ort::CustomOp* self, std::size_t i) {
    return IsTrace(Op(self).op.outputs.items[i].role) ? ort::kFloat : ElementTypeOf(Op(self).type);
  };
  GetOutputCharacteristic = [](const ort::CustomOp* self, std::size_t i) {
    const Operator& contract = Op(self).op;
    return i == 0 && contract.rewrites && contract.over_tokens ? ort::kRequired : ort::kOptional;
  };
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
  GetStartVersion = [](const ort::CustomOp*) { return 1; };
  GetEndVersion = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  CreateKernelV2 = MakeKernel;
  KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    return static_cast<const Kernel*>(kernel)->Compute(context);
  };
  KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  InferOutputShapeFn = InferShapes;
  // On a card a block of the tokens' compression reads states that another block may have rewritten already.
  const bool on_cpu = !std::strcmp(backend.provider, "CPUExecutionProvider");
  if (op.rewrites && (on_cpu || !op.over_tokens)) {
    GetMayInplace = [](int** inputs, int** outputs) -> std::size_t {
      *inputs = new int[1]{0};
      *outputs = new int[1]{0};
      return 1;
    };
    ReleaseMayInplace = [](int* inputs, int* outputs) {
      delete[] inputs;
      delete[] outputs;
    };
  }
}

}  // namespace ddl
