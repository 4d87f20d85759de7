// What the library exports: its operators for ONNX Runtime, and a description of itself.
#include <deque>
#include <mutex>
#include <string>

#include "delta.h"
#include "ort_delta.h"

#define DDL_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

struct Backends {
  const ddl::Backend* items[2];
  std::size_t count;
};

// One backend per device: ONNX Runtime has one kernel of an operator for each provider.
Backends Registered() {
  std::size_t levels = 0;
  Backends backends = {{ddl::CpuBackends(&levels)}, 1};
#ifdef DDL_WITH_CUDA
  backends.items[backends.count++] = &ddl::CudaBackend();
#endif
  return backends;
}

template <std::size_t kCount>
std::string JsonList(const char* const (&names)[kCount]) {
  std::string list;
  for (const char* name : names) list += (list.empty() ? "\"" : ",\"") + std::string(name) + "\"";
  return "[" + list + "]";
}

std::string Describe() {
  const Backends backends = Registered();
  std::string providers;
  for (std::size_t i = 0; i < backends.count; ++i) {
    providers += (i ? ",\"" : "\"") + std::string(backends.items[i]->provider) + "\"";
  }
  return std::string("{\"library\":\"ddl_delta\",\"version\":\"" DDL_VERSION "\",\"ort_api\":") +
         std::to_string(ort::kApiVersion) + ",\"isa\":\"" + backends.items[0]->name + "\",\"providers\":[" + providers +
         "],\"ops\":[{\"domain\":\"" + ddl::kDomain + "\",\"name\":\"" + ddl::kOpName +
         "\",\"version\":" + std::to_string(ddl::kOpVersion) +
         ",\"datatypes\":[\"FP32\"],\"value_channels\":[1,2147483647],\"inputs\":" + JsonList(ddl::kInputs) +
         ",\"outputs\":" + JsonList(ddl::kOutputs) + ",\"attributes\":" + JsonList(ddl::kAttributes) +
         "}],\"cuda_architectures\":[" DDL_CUDA_ARCHITECTURES "]}";
}

}  // namespace

// Returns the library's description as JSON, valid as long as the library is loaded. Safe to call before anything else.
DDL_EXPORT const char* ddl_kernel_info() {
  static const std::string info = Describe();
  return info.c_str();
}

// Adds the operators to a session's options; ONNX Runtime calls it by this name. Once per options object.
DDL_EXPORT ort::Status* RegisterCustomOps(ort::SessionOptions* options, const ort::ApiBase* base) {
  static std::mutex mutex;
  static auto& ops = *new std::deque<ddl::DeltaOp>;  // never destroyed: sessions may end after static objects
  static ort::CustomOpDomain* domain = nullptr;

  const ort::ApiTable* table = base->GetApi(ort::kApiVersion);
  if (!table) return nullptr;  // an older runtime: it has printed so itself, and without a table no status can be made
  const ort::Api api(table);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    ort::CustomOpDomain* created = nullptr;
    if (ort::Status* status = api.CreateCustomOpDomain(ddl::kDomain, &created)) return status;
    const Backends backends = Registered();
    for (std::size_t i = 0; i < backends.count; ++i) {
      ops.emplace_back(*backends.items[i], table);
      if (ort::Status* status = api.CustomOpDomain_Add(created, &ops.back())) return status;
    }
    domain = created;
  }
  return api.AddCustomOpDomain(options, domain);
}
