#include "check_memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#ifdef DDL_WITH_CUDA
#include <cuda_runtime.h>
#endif

namespace check {
namespace {

constexpr std::size_t kAlignment = 256;

// Runs the tasks from the last to the first: they must not depend on an order.
bool RunBackwards(void*, ddl::Execution::Task task, std::size_t count, void* user) {
  for (std::size_t i = count; i > 0; --i) task(user, i - 1);
  return true;
}

bool RunForwards(void*, ddl::Execution::Task task, std::size_t count, void* user) {
  for (std::size_t i = 0; i < count; ++i) task(user, i);
  return true;
}

class Host : public Device {
 public:
  void* Allocate(std::size_t bytes) override {
    void* memory = nullptr;  // of just so many bytes: the sanitizers see the first one behind
    return posix_memalign(&memory, kAlignment, bytes) == 0 ? memory : nullptr;
  }
  void Free(void* memory) override { std::free(memory); }
  void Upload(void* to, const void* from, std::size_t bytes) override { Copy(to, from, bytes); }
  void Download(void* to, const void* from, std::size_t bytes) override { Copy(to, from, bytes); }
  void Copy(void* to, const void* from, std::size_t bytes) override {
    if (bytes) std::memcpy(to, from, bytes);
  }
  void Run(const std::function<void(const ddl::Execution&)>& work) override { work({RunBackwards, nullptr, nullptr}); }
  double Time(const std::function<void(const ddl::Execution&)>& work, int repeats) override {
    const std::clock_t start = std::clock();
    for (int i = 0; i < repeats; ++i) work({RunForwards, nullptr, nullptr});
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC / repeats;
  }
};

#ifdef DDL_WITH_CUDA

void Require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

class Card : public Device {
 public:
  Card() { Require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  ~Card() override { cudaStreamDestroy(stream_); }

  void* Allocate(std::size_t bytes) override {
    void* memory = nullptr;
    Require(cudaMalloc(&memory, bytes + kAlignment), "cudaMalloc");
    return memory;
  }
  void Free(void* memory) override { Require(cudaFree(memory), "cudaFree"); }
  void Upload(void* to, const void* from, std::size_t bytes) override {
    Require(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "upload");
  }
  void Download(void* to, const void* from, std::size_t bytes) override {
    Require(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost), "download");
  }
  void Copy(void* to, const void* from, std::size_t bytes) override {
    Require(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copy");
  }
  void Run(const std::function<void(const ddl::Execution&)>& work) override { Time(work, 1); }

  double Time(const std::function<void(const ddl::Execution&)>& work, int repeats) override {
    Require(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "begin of capture");
    for (int i = 0; i < repeats; ++i) work({nullptr, nullptr, stream_});
    cudaGraph_t graph = nullptr;
    Require(cudaStreamEndCapture(stream_, &graph), "end of capture");
    cudaGraphExec_t executable = nullptr;
    Require(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    cudaEvent_t start = nullptr;
    cudaEvent_t end = nullptr;
    Require(cudaEventCreate(&start), "cudaEventCreate");
    Require(cudaEventCreate(&end), "cudaEventCreate");
    Require(cudaEventRecord(start, stream_), "cudaEventRecord");
    Require(cudaGraphLaunch(executable, stream_), "cudaGraphLaunch");
    Require(cudaEventRecord(end, stream_), "cudaEventRecord");
    Require(cudaEventSynchronize(end), "the kernel");
    float milliseconds = 0;
    Require(cudaEventElapsedTime(&milliseconds, start, end), "cudaEventElapsedTime");
    Require(cudaEventDestroy(start), "cudaEventDestroy");
    Require(cudaEventDestroy(end), "cudaEventDestroy");
    Require(cudaGraphExecDestroy(executable), "cudaGraphExecDestroy");
    Require(cudaGraphDestroy(graph), "cudaGraphDestroy");
    return milliseconds * 1e-3 / repeats;
  }

 private:
  cudaStream_t stream_ = nullptr;
};

#endif

}  // namespace

std::unique_ptr<Device> MakeHost() { return std::make_unique<Host>(); }

std::unique_ptr<Device> MakeCard(std::string* description) {
#ifdef DDL_WITH_CUDA
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    *description = error == cudaSuccess ? "no NVIDIA card" : cudaGetErrorString(error);
    return nullptr;
  }
  cudaDeviceProp properties = {};
  Require(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  *description = properties.name;
  return std::make_unique<Card>();
#else
  *description = "this build has no CUDA kernels";
  return nullptr;
#endif
}

}  // namespace check
