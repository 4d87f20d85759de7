// A run allocates nothing, and calls the runtime three times for each input and twice for each output: for one token
// these calls are as long as the computation.
#include "ort_kernel.h"

#include <cstring>

namespace ddl {

using ort::Status;

struct Kernel::Run {
  void* inputs[kInputRoles] = {};
  ShapeView shapes[kInputRoles];
  std::int64_t storage[kInputRoles][kMaxRank];  // of the shapes, where the runtime lends no reference
  Sizes sizes;
  void* outputs[kOutputRoles] = {};
};

Kernel::Kernel(const Operator& op, const Backend& backend, Type type, const Runtime& runtime,
               const Attributes& attributes)
    : op_(op),
      backend_(backend),
      type_(type),
      runtime_(runtime),
      attributes_(attributes),
      on_cpu_(!std::strcmp(backend.provider, "CPUExecutionProvider")) {}

Status* Kernel::Compute(ort::KernelContext* context) const {
  Run run;
  DDL_RETURN_IF_ERROR(ReadInputs(context, &run));
  DDL_RETURN_IF_ERROR(MakeOutputs(context, &run));
  return run.sizes.rows * run.sizes.tokens == 0 ? nullptr : Call(context, run);
}

Status* Kernel::ReadInputs(const ort::KernelContext* context, Run* run) const {
  const ort::Api& api = runtime_.api;
  std::size_t count = 0;
  DDL_RETURN_IF_ERROR(api.KernelContext_GetInputCount(context, &count));
  for (std::size_t i = 0; i < op_.inputs.count; ++i) {
    const InputRole role = op_.inputs.items[i].role;
    const ort::Value* value = nullptr;
    if (i < count) DDL_RETURN_IF_ERROR(api.KernelContext_GetInput(context, i, &value));
    if (value) {
      DDL_RETURN_IF_ERROR(api.GetTensorMutableData(const_cast<ort::Value*>(value), &run->inputs[role]));
      DDL_RETURN_IF_ERROR(ReadShape(value, i, run->storage[role], &run->shapes[role]));
    } else if (role != kOverride) {
      return Invalid(i, "is missing");
    }
  }
  const ShapeView& state = run->shapes[kState];
  if (op_.over_tokens ? state.rank != 4 : state.rank < 2) return Invalid(0, StateProblem(op_, state));
  run->sizes = ReadSizes(op_, run->shapes);
  for (std::size_t i = 1; i < op_.inputs.count; ++i) {
    const InputRole role = op_.inputs.items[i].role;
    if (role == kOverride && !run->shapes[role].sizes) continue;
    if (!Fits(role, op_, run->sizes, run->shapes[role])) {
      return Invalid(i, FitProblem(role, op_, run->sizes, run->shapes));
    }
  }
  return nullptr;
}

Status* Kernel::ReadShape(const ort::Value* value, std::size_t input, std::int64_t* storage, ShapeView* shape) const {
  const ort::Api& api = runtime_.api;
  Status* status = nullptr;
  if (runtime_.has_shape_reference) {
    ort::ElementType type;
    DDL_RETURN_IF_ERROR(api.GetTensorElementTypeAndShapeDataReference(value, &type, &shape->sizes, &shape->rank));
    if (!shape->sizes) shape->sizes = storage;  // of a scalar
  } else {
    ort::TensorTypeAndShapeInfo* info = nullptr;
    DDL_RETURN_IF_ERROR(api.GetTensorTypeAndShape(value, &info));
    status = api.GetDimensionsCount(info, &shape->rank);
    if (!status && shape->rank <= kMaxRank) status = api.GetDimensions(info, storage, shape->rank);
    api.ReleaseTensorTypeAndShapeInfo(info);
    shape->sizes = storage;
  }
  if (status || shape->rank <= kMaxRank) return status;
  return Invalid(input, "has rank " + std::to_string(shape->rank) + ", at most " + std::to_string(kMaxRank));
}

Status* Kernel::MakeOutputs(ort::KernelContext* context, Run* run) const {
  const ort::Api& api = runtime_.api;
  std::size_t count = 0;
  DDL_RETURN_IF_ERROR(api.KernelContext_GetOutputCount(context, &count));
  for (std::size_t i = 0; i < op_.outputs.count && i < count; ++i) {
    const OutputRole role = op_.outputs.items[i].role;
    const Shape shape = OutputShape(role, run->sizes);
    ort::Value* value = nullptr;
    DDL_RETURN_IF_ERROR(api.KernelContext_GetOutput(context, i, shape.sizes, shape.rank, &value));
    if (value) DDL_RETURN_IF_ERROR(api.GetTensorMutableData(value, &run->outputs[role]));
  }
  return nullptr;
}

Status* Kernel::Call(ort::KernelContext* context, const Run& run) const {
  if (op_.rewrites && op_.over_tokens && !run.outputs[kNewState]) {
    const std::string message = std::string(op_.name) + ": output new_state is required";
    return runtime_.api.CreateStatus(ort::kInvalidArgument, message.c_str());
  }
  const Sizes& sizes = run.sizes;
  Rewrite rewrite = {};
  rewrite.direction = run.inputs[kDirection];
  rewrite.context = run.inputs[kContext];
  rewrite.target_input = run.inputs[kTargetInput];
  rewrite.gate_weight = run.inputs[kGateWeight];
  rewrite.gate_bias = run.inputs[kGateBias];
  rewrite.target_weight = run.inputs[kTargetWeight];
  rewrite.target_bias = run.inputs[kTargetBias];
  rewrite.overrides = static_cast<const Override*>(run.inputs[kOverride]);
  rewrite.new_state = run.outputs[kNewState];
  rewrite.beta = static_cast<float*>(run.outputs[kBeta]);
  rewrite.gate_logit = static_cast<float*>(run.outputs[kGateLogit]);
  rewrite.target = static_cast<float*>(run.outputs[kTarget]);
  rewrite.readout = static_cast<float*>(run.outputs[kReadout]);
  rewrite.direction_norm = static_cast<float*>(run.outputs[kDirectionNorm]);
  rewrite.gate_width = sizes.gate_width;
  rewrite.target_width = sizes.target_width;
  rewrite.override_count = sizes.override_count;
  rewrite.direction_eps = attributes_.floats[kDirectionEps];
  rewrite.target_scale = attributes_.floats[kTargetScale];
  rewrite.erases = attributes_.erases;

  Compress compress = {};
  compress.history = run.inputs[kHistory];
  compress.weight = run.inputs[kCompressWeight];
  compress.norm_weight = run.inputs[kNormWeight];
  compress.compressed = run.outputs[kCompressed];
  compress.context = run.outputs[kCompressedContext];
  compress.taps = sizes.taps;
  compress.norm_eps = attributes_.floats[kNormEps];

  const DeltaArgs args = {type_,
                          run.inputs[kState],
                          sizes.rows,
                          sizes.tokens,
                          sizes.width,
                          sizes.value_channels,
                          op_.rewrites ? &rewrite : nullptr,
                          op_.compresses ? &compress : nullptr};

  struct Pool {
    const ort::Api& api;
    const ort::KernelContext* context;
    Status* status;
  } pool = {runtime_.api, context, nullptr};
  Execution execution = {};
  execution.pool = &pool;
  execution.parallel_for = [](void* user, Execution::Task task, std::size_t count, void* argument) {
    Pool& lent = *static_cast<Pool*>(user);
    lent.status = lent.api.KernelContext_ParallelFor(lent.context, task, count, 0, argument);
    return lent.status == nullptr;
  };
  if (!on_cpu_) DDL_RETURN_IF_ERROR(runtime_.api.KernelContext_GetGPUComputeStream(context, &execution.stream));
  const char* error = backend_.run(args, execution);
  if (pool.status || !error) return pool.status;
  const std::string message = std::string(op_.name) + " on " + backend_.name + ": " + error;
  return runtime_.api.CreateStatus(ort::kFail, message.c_str());
}

Status* Kernel::Invalid(std::size_t input, const std::string& what) const {
  const std::string message = std::string(op_.name) + ": input " + op_.inputs.items[input].name + " " + what;
  return runtime_.api.CreateStatus(ort::kInvalidArgument, message.c_str());
}

}  // namespace ddl
