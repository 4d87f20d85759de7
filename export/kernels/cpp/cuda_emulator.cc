// The checked form of longjmp takes a jump between stacks for an error.
#undef _FORTIFY_SOURCE

#include "cuda_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace emulator {

Place place;

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kMostThreads = 1024;
constexpr std::size_t kStackBytes = 128 * 1024;

enum class Waiting { kNo, kForWarp, kForBlock, kEnded };

// A place in the program with its stack. Jumps switch between two of them without asking the system, which the address
// sanitizer does not follow.
#ifdef __SANITIZE_ADDRESS__
class Context {
 public:
  ucontext_t& start() { return context_; }
  void SwitchTo(Context& next) { swapcontext(&context_, &next.context_); }

 private:
  ucontext_t context_;
};
#else
class Context {
 public:
  ucontext_t& start() {
    started_ = false;
    return context_;
  }
  void SwitchTo(Context& next) {
    started_ = true;
    if (_setjmp(jump_)) return;
    if (next.started_) _longjmp(next.jump_, 1);
    setcontext(&next.context_);
  }

 private:
  ucontext_t context_;
  jmp_buf jump_;
  bool started_ = false;
};
#endif

struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack;
  Waiting waiting;
  unsigned round;  // of the exchange or barrier it waits for
};

// What the lanes of a warp bring to an exchange. A lane is at most one exchange ahead of another, so two rounds do.
struct Warp {
  std::uint32_t brought[2][kWarp];
  unsigned arrived;
  unsigned round;
};

std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<uint4> shared;
Context launcher;
unsigned barrier_arrived, barrier_round;
unsigned running;
Order warp_order;
const std::function<void()>* work;

[[noreturn]] void Die(const char* what) {
  std::fprintf(stderr, "emulator: %s (block %u, thread %u)\n", what, place.block.x, place.thread.x);
  std::abort();
}

bool MayRun(unsigned index) {
  const Fiber& fiber = fibers[index];
  switch (fiber.waiting) {
    case Waiting::kNo:
      return true;
    case Waiting::kForWarp:
      return warps[index / kWarp].round != fiber.round;
    case Waiting::kForBlock:
      return barrier_round != fiber.round;
    default:
      return false;
  }
}

// The next thread that may run: of the same warp if there is one, then of the other warps in their order.
bool FindNext(unsigned* next) {
  const unsigned threads = place.block_size.x;
  const unsigned first = running / kWarp * kWarp;
  for (unsigned step = 1; step <= kWarp; ++step) {
    *next = first + (running - first + step) % kWarp;
    if (MayRun(*next)) return true;
  }
  for (unsigned i = 0; i < threads; ++i) {
    *next = warp_order == Order::kAscending ? i : (threads / kWarp - 1 - i / kWarp) * kWarp + i % kWarp;
    if (MayRun(*next)) return true;
  }
  return false;
}

void SwitchFrom(Fiber& fiber) {
  unsigned next = 0;
  if (FindNext(&next)) {
    running = next;
    place.thread.x = next;
    if (&fibers[next] != &fiber) fiber.context.SwitchTo(fibers[next].context);
    return;
  }
  for (unsigned i = 0; i < place.block_size.x; ++i) {
    if (fibers[i].waiting != Waiting::kEnded) Die("threads wait for each other in different places");
  }
  fiber.context.SwitchTo(launcher);
}

// Waits until MayRun.
void Wait(Waiting reason, unsigned round) {
  Fiber& own = fibers[place.thread.x];
  own.waiting = reason;
  own.round = round;
  SwitchFrom(own);
  own.waiting = Waiting::kNo;
}

// One thread of each block after the other.
void RunFiber() {
  while (true) {
    (*work)();
    Fiber& own = fibers[place.thread.x];
    own.waiting = Waiting::kEnded;
    SwitchFrom(own);
  }
}

void Prepare(Fiber& fiber) {
  fiber.stack = std::make_unique<char[]>(kStackBytes);
  ucontext_t& context = fiber.context.start();
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, RunFiber, 0);
}

void RunBlock(unsigned threads) {
  if (fibers.empty()) {
    fibers.resize(kMostThreads);
    for (Fiber& fiber : fibers) Prepare(fiber);
  }
  for (unsigned i = 0; i < threads; ++i) fibers[i].waiting = Waiting::kNo;
  warps.assign(threads / kWarp, {});
  barrier_arrived = barrier_round = 0;
  running = warp_order == Order::kAscending ? 0 : threads - kWarp;
  place.thread.x = running;
  launcher.SwitchTo(fibers[running].context);
}

}  // namespace

void Launch(unsigned blocks, unsigned threads, std::size_t shared_bytes, Order order,
            const std::function<void()>& thread) {
  if (threads == 0 || threads % kWarp != 0 || threads > kMostThreads) Die("a block is 1 to 32 whole warps");
  work = &thread;
  warp_order = order;
  place.block_size.x = threads;
  place.grid_size.x = blocks;
  for (unsigned block = 0; block < blocks; ++block) {
    constexpr unsigned kNan = ~0u;  // in every type
    shared.assign(shared_bytes / sizeof(uint4) + 2, {kNan, kNan, kNan, kNan});
    place.block.x = block;
    RunBlock(threads);
    const auto* const bytes = reinterpret_cast<const unsigned char*>(shared.data());
    for (std::size_t i = shared_bytes; i < shared.size() * sizeof(uint4); ++i) {
      if (bytes[i] != 0xff) Die("a block wrote beyond its memory");
    }
  }
}

void* Shared() { return shared.data(); }

void Barrier() {
  const unsigned round = barrier_round;
  if (++barrier_arrived == place.block_size.x) {
    barrier_arrived = 0;
    ++barrier_round;
  } else {
    Wait(Waiting::kForBlock, round);
  }
}

std::uint32_t Exchange(std::uint32_t bits, int source) {
  Warp& warp = warps[place.thread.x / kWarp];
  const unsigned round = warp.round;
  warp.brought[round % 2][place.thread.x % kWarp] = bits;
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    ++warp.round;
  } else {
    Wait(Waiting::kForWarp, round);
  }
  return warp.brought[round % 2][source];
}

void RequireAligned(const void* pointer, std::size_t size) {
  if (reinterpret_cast<std::uintptr_t>(pointer) % size != 0) Die("a vector is not aligned");
}

std::uint32_t HalfBits(float value) {
  const std::uint32_t bits = Bits(value);
  const std::uint32_t sign = bits >> 16 & 0x8000;
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return 0x7fff;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = -13;  // of the denormal ones
  if (magnitude >= 0x1p-14f) std::frexp(magnitude, &exponent);
  const float unit = std::ldexp(1.0f, exponent - 11);
  const auto count = static_cast<std::uint32_t>(std::nearbyint(magnitude / unit));  // up to 2048: carries over
  return sign | (static_cast<std::uint32_t>(exponent + 13) * 1024 + count);
}

float HalfValue(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const auto fraction = static_cast<float>(bits & 1023);
  float magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024.0f + fraction, exponent - 25);
  if (exponent == 31) magnitude = fraction == 0 ? INFINITY : NAN;
  return bits & 0x8000 ? -magnitude : magnitude;
}

std::uint32_t BFloatBits(float value) {
  if (std::isnan(value)) return 0x7fff;
  const std::uint32_t bits = Bits(value);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace emulator
