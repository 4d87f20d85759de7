// What the library exports: its operators for ONNX Runtime, and a description of itself.
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>

#include "delta.h"
#include "ort_op.h"

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

template <class Role>
std::string JsonList(ddl::Arguments<Role> arguments, std::size_t count) {
  std::string list;
  for (std::size_t i = 0; i < count; ++i) list += (i ? ",\"" : "\"") + std::string(arguments.items[i].name) + "\"";
  return "[" + list + "]";
}

std::string Describe(const ddl::OperatorVersion& published) {
  const ddl::Operator& op = *published.op;
  const bool has_override = op.inputs.items[op.inputs.count - 1].role == ddl::kOverride;
  return std::string("{\"domain\":\"") + ddl::kDomain + "\",\"name\":\"" + op.name +
         "\",\"version\":" + std::to_string(published.version) + ",\"datatypes\":[\"FP32\"" +
         (published.short_types ? ",\"FP16\",\"BF16\"" : "") +
         "],\"value_channels\":[1,2147483647],\"inputs\":" + JsonList(op.inputs, op.inputs.count - has_override) +
         ",\"takes_override\":" + (published.takes_override ? "true" : "false") +
         ",\"outputs\":" + JsonList(op.outputs, op.outputs.count) +
         ",\"attributes\":" + JsonList(op.attributes, published.attributes) + "}";
}

std::string Describe() {
  const Backends backends = Registered();
  std::string providers;
  for (std::size_t i = 0; i < backends.count; ++i) {
    providers += (i ? ",\"" : "\"") + std::string(backends.items[i]->provider) + "\"";
  }
  std::string ops;
  for (const ddl::OperatorVersion& published : ddl::kOperatorVersions)
    ops += (ops.empty() ? "" : ",") + Describe(published);
  return std::string("{\"library\":\"ddl_delta\",\"version\":\"" DDL_VERSION "\",\"ort_api\":") +
         std::to_string(ort::kApiVersion) + ",\"isa\":\"" + backends.items[0]->name + "\",\"providers\":[" + providers +
         "],\"ops\":[" + ops + "],\"cuda_architectures\":[" DDL_CUDA_ARCHITECTURES "]}";
}

// Returns an error where not even the table of the required version is there: the first version has had CreateStatus.
ort::Status* TooOld(const ort::ApiBase* base) {
  const ort::ApiTable* first = base->GetApi(1);
  if (!first) return nullptr;  // nothing is left to say it with
  const std::string message = std::string("libddl_delta " DDL_VERSION " needs ONNX Runtime 1.") +
                              std::to_string(ort::kApiVersion) + " or newer, this one is " + base->GetVersionString();
  return ort::Api(first).CreateStatus(ort::kFail, message.c_str());
}

// The number of the API that a runtime has: the second part of its version, such as 32 of 1.32.0.
std::uint32_t ApiOf(const ort::ApiBase* base) {
  const char* dot = std::strchr(base->GetVersionString(), '.');
  return dot ? static_cast<std::uint32_t>(std::strtoul(dot + 1, nullptr, 10)) : 0;
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
  if (!table) return TooOld(base);
  const ort::Api api(table);
  const std::lock_guard<std::mutex> lock(mutex);
  if (!domain) {
    ort::CustomOpDomain* created = nullptr;
    if (ort::Status* status = api.CreateCustomOpDomain(ddl::kDomain, &created)) return status;
    // Asked for by number, a version that the runtime does not have would make it print an error.
    const std::uint32_t version = ApiOf(base);
    const bool has_shape_reference =
        version >= ort::kShapeReferenceVersion && base->GetApi(ort::kShapeReferenceVersion);
    const ddl::Runtime runtime = {api, has_shape_reference, version >= ort::kCheckedShapeOutputVersion};
    const Backends backends = Registered();
    for (std::size_t i = 0; i < backends.count; ++i) {
      for (const ddl::Operator& op : ddl::kOperators) {
        for (const ddl::Type type : {ddl::Type::kFloat32, ddl::Type::kFloat16, ddl::Type::kBFloat16}) {
          ops.emplace_back(op, *backends.items[i], type, runtime);
          if (ort::Status* status = api.CustomOpDomain_Add(created, &ops.back())) return status;
        }
      }
    }
    domain = created;
  }
  return api.AddCustomOpDomain(options, domain);
}
