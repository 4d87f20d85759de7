// Between ONNX Runtime and a backend: attributes, shapes, buffers, the thread pool and the stream.
#include "ort_delta.h"

#include <limits>
#include <string>
#include <string_view>

namespace ddl {
namespace {

using ort::Status;

constexpr std::size_t kInputCount = sizeof(kInputs) / sizeof(kInputs[0]);
constexpr std::size_t kOutputCount = sizeof(kOutputs) / sizeof(kOutputs[0]);
constexpr std::size_t kMaxRank = 16;

#define DDL_RETURN_IF_ERROR(expression)                       \
  do {                                                        \
    if (Status* ddl_status = (expression)) return ddl_status; \
  } while (0)

struct Shape {
  std::size_t rank = 0;
  std::int64_t sizes[kMaxRank] = {};

  Shape() = default;
  Shape(const Shape& leading, std::size_t count) : rank(count) {
    for (std::size_t i = 0; i < count; ++i) sizes[i] = leading.sizes[i];
  }
  Shape Plus(std::int64_t size) const {
    Shape longer(*this);
    longer.sizes[longer.rank++] = size;
    return longer;
  }
  bool operator==(const Shape& other) const {
    bool equal = rank == other.rank;
    for (std::size_t i = 0; equal && i < rank; ++i) equal = sizes[i] == other.sizes[i];
    return equal;
  }
  std::string Text() const {
    std::string text = "(";
    for (std::size_t i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
    return text + (rank == 1 ? ",)" : ")");
  }
};

// One operator node of a session.
class DeltaKernel {
 public:
  DeltaKernel(const DeltaOp& op, float direction_eps, float target_scale)
      : api_(op.api), backend_(op.backend), direction_eps_(direction_eps), target_scale_(target_scale) {}

  Status* Compute(ort::KernelContext* context) const {
    const float* inputs[kInputCount];
    Shape shapes[kInputCount];
    for (std::size_t i = 0; i < kInputCount; ++i) DDL_RETURN_IF_ERROR(Input(context, i, &inputs[i], &shapes[i]));
    DDL_RETURN_IF_ERROR(CheckShapes(shapes));

    const Shape& state = shapes[0];
    const Shape tokens(state, state.rank - 2);
    const std::int64_t width = state.sizes[state.rank - 2];
    const std::int64_t channels = state.sizes[state.rank - 1];
    const Shape per_channel = tokens.Plus(channels);
    const Shape* output_shapes[kOutputCount] = {&state, &tokens, &tokens, &per_channel, &per_channel, &tokens};
    float* outputs[kOutputCount] = {};
    std::size_t count = 0;
    DDL_RETURN_IF_ERROR(api_.KernelContext_GetOutputCount(context, &count));
    for (std::size_t i = 0; i < kOutputCount && i < count; ++i) {
      DDL_RETURN_IF_ERROR(Output(context, i, *output_shapes[i], &outputs[i]));
    }

    DeltaArgs args = {};
    args.state = inputs[0];
    args.direction = inputs[1];
    args.context = inputs[2];
    args.target_input = inputs[3];
    args.gate_weight = inputs[4];
    args.gate_bias = inputs[5];
    args.target_weight = inputs[6];
    args.target_bias = inputs[7];
    args.new_state = outputs[0];
    args.beta = outputs[1];
    args.gate_logit = outputs[2];
    args.target = outputs[3];
    args.readout = outputs[4];
    args.direction_norm = outputs[5];
    args.tokens = 1;
    for (std::size_t i = 0; i < tokens.rank; ++i) args.tokens *= tokens.sizes[i];
    args.width = width;
    args.value_channels = channels;
    args.direction_eps = direction_eps_;
    args.target_scale = target_scale_;
    return args.tokens == 0 ? nullptr : Run(context, args);
  }

 private:
  struct Pool {
    const ort::Api& api;
    const ort::KernelContext* context;
    Status* status = nullptr;
  };

  Status* Run(ort::KernelContext* context, const DeltaArgs& args) const {
    Pool pool = {api_, context};
    Execution execution = {};
    execution.pool = &pool;
    execution.parallel_for = [](void* user, Execution::Task task, std::size_t count, void* argument) {
      Pool& lent = *static_cast<Pool*>(user);
      lent.status = lent.api.KernelContext_ParallelFor(lent.context, task, count, 0, argument);
      return lent.status == nullptr;
    };
    if (backend_.provider != std::string_view("CPUExecutionProvider")) {
      DDL_RETURN_IF_ERROR(api_.KernelContext_GetGPUComputeStream(context, &execution.stream));
    }
    const char* error = backend_.run(args, execution);
    if (pool.status || !error) return pool.status;
    return api_.CreateStatus(ort::kFail, (std::string(kOpName) + " on " + backend_.name + ": " + error).c_str());
  }

  Status* Input(const ort::KernelContext* context, std::size_t index, const float** data, Shape* shape) const {
    const ort::Value* value = nullptr;
    DDL_RETURN_IF_ERROR(api_.KernelContext_GetInput(context, index, &value));
    if (!value) return Invalid(index, "is missing");
    void* pointer = nullptr;
    DDL_RETURN_IF_ERROR(api_.GetTensorMutableData(const_cast<ort::Value*>(value), &pointer));
    *data = static_cast<const float*>(pointer);

    ort::TensorTypeAndShapeInfo* info = nullptr;
    DDL_RETURN_IF_ERROR(api_.GetTensorTypeAndShape(value, &info));
    Status* status = api_.GetDimensionsCount(info, &shape->rank);
    if (!status && shape->rank > kMaxRank) {
      status = Invalid(index, "has rank " + std::to_string(shape->rank) + ", at most " + std::to_string(kMaxRank));
    } else if (!status) {
      status = api_.GetDimensions(info, shape->sizes, shape->rank);
    }
    api_.ReleaseTensorTypeAndShapeInfo(info);
    return status;
  }

  Status* Output(ort::KernelContext* context, std::size_t index, const Shape& shape, float** data) const {
    ort::Value* value = nullptr;
    DDL_RETURN_IF_ERROR(api_.KernelContext_GetOutput(context, index, shape.sizes, shape.rank, &value));
    if (!value) return nullptr;
    void* pointer = nullptr;
    DDL_RETURN_IF_ERROR(api_.GetTensorMutableData(value, &pointer));
    *data = static_cast<float*>(pointer);
    return nullptr;
  }

  Status* CheckShapes(const Shape* shapes) const {
    const Shape& state = shapes[0];
    if (state.rank < 2) return Invalid(0, "has shape " + state.Text() + ", needed is (..., width, value channels)");
    const std::int64_t width = state.sizes[state.rank - 2];
    const std::int64_t channels = state.sizes[state.rank - 1];
    const Shape per_width(state, state.rank - 1);
    const Shape scalar;
    const Shape one = scalar.Plus(1);
    const Shape needed[kInputCount] = {state,
                                       per_width,
                                       per_width,
                                       per_width,
                                       one.Plus(width),
                                       one,
                                       scalar.Plus(channels).Plus(width),
                                       scalar.Plus(channels)};
    for (std::size_t i = 1; i < kInputCount; ++i) {
      if (!(shapes[i] == needed[i])) {
        return Invalid(i, "has shape " + shapes[i].Text() + ", needed is " + needed[i].Text() +
                              " because state has shape " + state.Text());
      }
    }
    return nullptr;
  }

  Status* Invalid(std::size_t input, const std::string& what) const {
    const std::string message = std::string(kOpName) + ": input " + kInputs[input] + " " + what;
    return api_.CreateStatus(ort::kInvalidArgument, message.c_str());
  }

  ort::Api api_;
  Backend backend_;
  float direction_eps_;
  float target_scale_;
};

const DeltaOp& Op(const ort::CustomOp* op) { return *static_cast<const DeltaOp*>(op); }

Status* MakeKernel(const ort::CustomOp* custom_op, const ort::ApiTable*, const ort::KernelInfo* info, void** kernel) {
  const DeltaOp& op = Op(custom_op);
  float values[2] = {};
  for (int i = 0; i < 2; ++i)
    DDL_RETURN_IF_ERROR(op.api.KernelInfoGetAttribute_float(info, kAttributes[i], &values[i]));
  *kernel = new DeltaKernel(op, values[0], values[1]);
  return nullptr;
}

// Says that the new state has the state's shape, symbols included: only then does the runtime let it reuse the state's
// buffer. Shapes of optional outputs are not set: runtimes before 1.30 abort where the node leaves such an output out.
Status* InferShapes(const ort::CustomOp* op, ort::ShapeInferContext* context) {
  const ort::Api& api = Op(op).api;
  ort::TensorTypeAndShapeInfo* state = nullptr;
  DDL_RETURN_IF_ERROR(api.ShapeInferContext_GetInputTypeShape(context, 0, &state));
  std::size_t rank = 0;
  DDL_RETURN_IF_ERROR(api.GetDimensionsCount(state, &rank));
  if (rank < 2) return nullptr;  // not known before the run
  return api.ShapeInferContext_SetOutputTypeShape(context, 0, state);
}

}  // namespace

DeltaOp::DeltaOp(const Backend& chosen, const ort::ApiTable* table) : CustomOp{}, backend(chosen), api(table) {
  version = ort::kApiVersion;
  GetName = [](const ort::CustomOp*) { return kOpName; };
  GetExecutionProviderType = [](const ort::CustomOp* op) { return Op(op).backend.provider; };
  GetInputTypeCount = [](const ort::CustomOp*) { return kInputCount; };
  GetInputType = [](const ort::CustomOp*, std::size_t) { return ort::kFloat; };
  GetInputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kRequired; };
  GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return ort::kDefault; };
  GetOutputTypeCount = [](const ort::CustomOp*) { return kOutputCount; };
  GetOutputType = [](const ort::CustomOp*, std::size_t) { return ort::kFloat; };
  GetOutputCharacteristic = [](const ort::CustomOp*, std::size_t i) {
    return i == 0 ? ort::kRequired : ort::kOptional;
  };
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
  GetStartVersion = [](const ort::CustomOp*) { return kOpVersion; };
  GetEndVersion = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  CreateKernelV2 = MakeKernel;
  KernelComputeV2 = [](void* kernel, ort::KernelContext* context) {
    return static_cast<const DeltaKernel*>(kernel)->Compute(context);
  };
  KernelDestroy = [](void* kernel) { delete static_cast<DeltaKernel*>(kernel); };
  InferOutputShapeFn = InferShapes;
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

}  // namespace ddl
