// The rewrite's operator without its work: what ONNX Runtime itself takes to call a node of these arguments.
#include <limits>

#include "ort_abi.h"
#include "ort_contract.h"

namespace {

struct EmptyOp : ort::CustomOp {
  explicit EmptyOp(const ort::Api& api);

  ort::Api api;
};

const ddl::Operator& Rewrite() { return ddl::kOperators[0]; }

EmptyOp::EmptyOp(const ort::Api& lent) : CustomOp{}, api(lent) {
  version = ort::kApiVersion;
  GetName = [](const ort::CustomOp*) { return Rewrite().name; };
  GetExecutionProviderType = [](const ort::CustomOp*) { return "CPUExecutionProvider"; };
  GetInputTypeCount = [](const ort::CustomOp*) { return Rewrite().inputs.count; };
  GetInputType = GetOutputType = [](const ort::CustomOp*, std::size_t) { return ort::kFloat; };
  GetInputCharacteristic = GetOutputCharacteristic = [](const ort::CustomOp*, std::size_t) { return ort::kOptional; };
  GetInputMemoryType = [](const ort::CustomOp*, std::size_t) { return ort::kDefault; };
  GetOutputTypeCount = [](const ort::CustomOp*) { return Rewrite().outputs.count; };
  GetVariadicInputMinArity = GetVariadicOutputMinArity = [](const ort::CustomOp*) { return 1; };
  GetVariadicInputHomogeneity = GetVariadicOutputHomogeneity = [](const ort::CustomOp*) { return 1; };
  GetStartVersion = [](const ort::CustomOp*) { return 1; };
  GetEndVersion = [](const ort::CustomOp*) { return std::numeric_limits<int>::max(); };
  CreateKernelV2 = [](const ort::CustomOp* self, const ort::ApiTable*, const ort::KernelInfo*,
                      void** kernel) -> ort::Status* {
    *kernel = const_cast<void*>(static_cast<const void*>(self));  // it has no state of its own
    return nullptr;
  };
  KernelComputeV2 = [](void*, ort::KernelContext*) -> ort::Status* { return nullptr; };
  KernelDestroy = [](void*) {};
}

}  // namespace

// ONNX Runtime calls it by this name; one session in the life of the process is enough for a benchmark.
extern "C" __attribute__((visibility("default"))) ort::Status* RegisterCustomOps(ort::SessionOptions* options,
                                                                                 const ort::ApiBase* base) {
  const ort::Api api(base->GetApi(ort::kApiVersion));
  static const EmptyOp op(api);
  ort::CustomOpDomain* domain = nullptr;
  DDL_RETURN_IF_ERROR(api.CreateCustomOpDomain(ddl::kDomain, &domain));
  DDL_RETURN_IF_ERROR(api.CustomOpDomain_Add(domain, &op));
  return api.AddCustomOpDomain(options, domain);
}
