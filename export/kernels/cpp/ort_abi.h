// The slice of ONNX Runtime's C API that an operator library needs, declared by hand.
//
// The API keeps its binary form: OrtApi is a table of function pointers to which releases only append, and OrtCustomOp
// a struct to which they only append, with the number of the release in `version`. Declared here, the library builds
// offline and runs on every release from 1.18 on; built from a release's header, it would refuse all older ones.
// Names are ONNX Runtime's own, without the prefix Ort; the numbers are indices into OrtApi.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort {

constexpr std::uint32_t kApiVersion = 18;                 // the first that has what is needed: CustomOp::GetMayInplace
constexpr std::uint32_t kShapeReferenceVersion = 24;      // the first with GetTensorElementTypeAndShapeDataReference
constexpr std::uint32_t kCheckedShapeOutputVersion = 30;  // the first that checks the index in SetOutputTypeShape

struct CustomOpDomain;
struct KernelContext;
struct KernelInfo;
struct SessionOptions;
struct ShapeInferContext;
struct Status;
struct TensorTypeAndShapeInfo;
struct Value;

enum ErrorCode : int { kFail = 1, kInvalidArgument = 2 };
enum ElementType : int { kFloat = 1, kFloat16 = 10, kBFloat16 = 16 };
enum Characteristic : int { kRequired = 0, kOptional = 1 };
enum MemoryType : int { kDefault = 0 };

struct ApiTable {
  void* entries[1];  // and many more
};

struct ApiBase {
  const ApiTable* (*GetApi)(std::uint32_t version);  // null: this runtime is older than `version`
  const char* (*GetVersionString)();
};

// An operator with one kernel. `Status*` results: null is success, anything else belongs to the caller.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, const ApiTable*, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);  // null: the CPU
  ElementType (*GetInputType)(const CustomOp*, std::size_t);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  ElementType (*GetOutputType)(const CustomOp*, std::size_t);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void*, KernelContext*);
  void (*KernelDestroy)(void*);
  Characteristic (*GetInputCharacteristic)(const CustomOp*, std::size_t);
  Characteristic (*GetOutputCharacteristic)(const CustomOp*, std::size_t);
  MemoryType (*GetInputMemoryType)(const CustomOp*, std::size_t);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, const ApiTable*, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, KernelContext*);
  Status* (*InferOutputShapeFn)(const CustomOp*, ShapeInferContext*);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  std::size_t (*GetMayInplace)(int** inputs, int** outputs);
  void (*ReleaseMayInplace)(int* inputs, int* outputs);
  std::size_t (*GetAliasMap)(int** inputs, int** outputs);
  void (*ReleaseAliasMap)(int* inputs, int* outputs);
};
static_assert(sizeof(void*) != 8 || sizeof(CustomOp) == 208, "CustomOp must have the layout of OrtCustomOp in 1.18");

// Calls into the runtime by index.
class Api {
 public:
  explicit Api(const ApiTable* table) : table_(table) {}

  Status* CreateStatus(ErrorCode code, const char* message) const { return Call<Status*>(0, int{code}, message); }
  void ReleaseStatus(Status* status) const { Call<void>(93, status); }

  Status* CreateCustomOpDomain(const char* name, CustomOpDomain** domain) const {
    return Call<Status*>(26, name, domain);
  }
  Status* CustomOpDomain_Add(CustomOpDomain* domain, const CustomOp* op) const { return Call<Status*>(27, domain, op); }
  Status* AddCustomOpDomain(SessionOptions* options, CustomOpDomain* domain) const {
    return Call<Status*>(28, options, domain);
  }

  Status* CreateTensorTypeAndShapeInfo(TensorTypeAndShapeInfo** info) const { return Call<Status*>(57, info); }
  Status* SetTensorElementType(TensorTypeAndShapeInfo* info, ElementType type) const {
    return Call<Status*>(58, info, type);
  }
  Status* SetDimensions(TensorTypeAndShapeInfo* info, const std::int64_t* sizes, std::size_t count) const {
    return Call<Status*>(59, info, sizes, count);
  }
  Status* GetTensorElementType(const TensorTypeAndShapeInfo* info, ElementType* type) const {
    return Call<Status*>(60, info, type);
  }
  Status* GetSymbolicDimensions(const TensorTypeAndShapeInfo* info, const char** names, std::size_t count) const {
    return Call<Status*>(63, info, names, count);
  }
  Status* SetSymbolicDimensions(TensorTypeAndShapeInfo* info, const char** names, std::size_t count) const {
    return Call<Status*>(271, info, names, count);
  }

  Status* GetTensorMutableData(Value* value, void** data) const { return Call<Status*>(51, value, data); }
  Status* GetTensorTypeAndShape(const Value* value, TensorTypeAndShapeInfo** info) const {
    return Call<Status*>(65, value, info);
  }
  Status* GetDimensionsCount(const TensorTypeAndShapeInfo* info, std::size_t* count) const {
    return Call<Status*>(61, info, count);
  }
  Status* GetDimensions(const TensorTypeAndShapeInfo* info, std::int64_t* sizes, std::size_t count) const {
    return Call<Status*>(62, info, sizes, count);
  }
  // The sizes belong to the value. Nothing is allocated.
  Status* GetTensorElementTypeAndShapeDataReference(const Value* value, ElementType* type, const std::int64_t** sizes,
                                                    std::size_t* count) const {
    return Call<Status*>(414, value, type, sizes, count);
  }
  void ReleaseTensorTypeAndShapeInfo(TensorTypeAndShapeInfo* info) const { Call<void>(99, info); }

  Status* KernelInfoGetAttribute_float(const KernelInfo* info, const char* name, float* value) const {
    return Call<Status*>(85, info, name, value);
  }
  Status* KernelInfoGetAttribute_int64(const KernelInfo* info, const char* name, std::int64_t* value) const {
    return Call<Status*>(86, info, name, value);
  }
  Status* KernelContext_GetInputCount(const KernelContext* context, std::size_t* count) const {
    return Call<Status*>(88, context, count);
  }
  Status* KernelContext_GetOutputCount(const KernelContext* context, std::size_t* count) const {
    return Call<Status*>(89, context, count);
  }
  // `value` becomes null where the node leaves the input out.
  Status* KernelContext_GetInput(const KernelContext* context, std::size_t index, const Value** value) const {
    return Call<Status*>(90, context, index, value);
  }
  // `value` becomes null where the node does not ask for the output.
  Status* KernelContext_GetOutput(KernelContext* context, std::size_t index, const std::int64_t* sizes,
                                  std::size_t rank, Value** value) const {
    return Call<Status*>(91, context, index, sizes, rank, value);
  }
  Status* KernelContext_GetGPUComputeStream(const KernelContext* context, void** stream) const {
    return Call<Status*>(193, context, stream);
  }
  // `batches` 0: the runtime decides how many calls share a task.
  Status* KernelContext_ParallelFor(const KernelContext* context, void (*task)(void*, std::size_t), std::size_t count,
                                    std::size_t batches, void* user) const {
    return Call<Status*>(274, context, task, count, batches, user);
  }

  // The info belongs to the context.
  Status* ShapeInferContext_GetInputTypeShape(const ShapeInferContext* context, std::size_t index,
                                              TensorTypeAndShapeInfo** info) const {
    return Call<Status*>(268, context, index, info);
  }
  Status* ShapeInferContext_SetOutputTypeShape(const ShapeInferContext* context, std::size_t index,
                                               const TensorTypeAndShapeInfo* info) const {
    return Call<Status*>(270, context, index, info);
  }

 private:
  template <class Result, class... Arguments>
  Result Call(std::size_t index, Arguments... arguments) const {
    return reinterpret_cast<Result (*)(Arguments...)>(table_->entries[index])(arguments...);
  }

  const ApiTable* table_;
};

}  // namespace ort

#define DDL_RETURN_IF_ERROR(expression)                            \
  do {                                                             \
    if (ort::Status* ddl_status = (expression)) return ddl_status; \
  } while (0)
