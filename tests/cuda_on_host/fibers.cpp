// The threads of a block as fibers; see cuda_runtime.h.

#include <stdlib.h>
#include <ucontext.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace cuda_on_host {

Index thread_index, block_index, block_size, grid_size;

namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr int kMaxThreads = 1024, kWarp = 32, kRedZone = 256;
constexpr unsigned char kUntouched = 0xa5;

enum State { kReady, kAtBarrier, kAtShuffle, kDone };

struct Fiber {
  void* context[5];
  std::unique_ptr<char[]> stack;
  bool started = false;
  State state = kDone;
  const char* file = nullptr;
  int line = 0;
  int shuffles = 0;
};

// A launch at a time: Python may call from several threads.
std::mutex one_launch;
std::vector<Fiber> fibers(kMaxThreads);
std::vector<unsigned char> shared;
uint64_t exchanged[2][kMaxThreads];
void* scheduler[5];
ucontext_t scheduler_context;
std::string error;
std::string launched;
void (*entry_of_block)(const void*);
const void* args_of_block;

Fiber& current() { return fibers[thread_index.x]; }

void leave(State state, const char* file, int line) {
  Fiber& fiber = current();
  fiber.state = state;
  fiber.file = file;
  fiber.line = line;
  if (__builtin_setjmp(fiber.context) == 0) __builtin_longjmp(scheduler, 1);
}

// A fiber lives on: when its block is done it waits for the next.
void body() {
  for (;;) {
    entry_of_block(args_of_block);
    leave(kDone, nullptr, 0);
  }
}

void resume(unsigned thread) {
  thread_index.x = thread;
  Fiber& fiber = fibers[thread];
  if (__builtin_setjmp(scheduler) != 0) return;
  if (fiber.started) __builtin_longjmp(fiber.context, 1);
  fiber.started = true;
  if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, body, 0);
  swapcontext(&scheduler_context, &context);
}

bool same_place(const Fiber& a, const Fiber& b) {
  return a.state == b.state && a.file == b.file && a.line == b.line;
}

// Those that wait for each other and are all there go on.
bool release(int first, int count, State state) {
  if (fibers[first].state != state) return false;
  for (int t = first; t < first + count; ++t)
    if (!same_place(fibers[t], fibers[first])) return false;
  for (int t = first; t < first + count; ++t) fibers[t].state = kReady;
  return true;
}

std::string describe(const Fiber& fiber) {
  if (fiber.state == kDone) return "is done";
  return std::string(fiber.state == kAtBarrier ? "waits at the barrier of " : "shuffles at ") +
         fiber.file + ":" + std::to_string(fiber.line);
}

void run_block(int threads, bool reverse) {
  for (int t = 0; t < threads; ++t) fibers[t].state = kReady;
  for (;;) {
    for (int i = 0; i < threads && error.empty(); ++i) {
      const int t = reverse ? threads - 1 - i : i;
      if (fibers[t].state == kReady) resume(t);
    }
    if (!error.empty()) return;
    bool done = true, released = release(0, threads, kAtBarrier);
    for (int t = 0; t < threads; t += kWarp) {
      released = release(t, kWarp, kAtShuffle) || released;
      for (int lane = t; lane < t + kWarp; ++lane) done = done && fibers[lane].state == kDone;
    }
    if (done) return;
    if (released) continue;
    for (int t = 1; t < threads; ++t)
      if (!same_place(fibers[t], fibers[0])) {
        error = "thread 0 " + describe(fibers[0]) + ", thread " + std::to_string(t) + " " +
                describe(fibers[t]);
        return;
      }
  }
}

}  // namespace

char* shared_memory() { return reinterpret_cast<char*>(shared.data()); }
void wait_for_block(const char* file, int line) { leave(kAtBarrier, file, line); }
void wait_for_warp(const char* file, int line) { leave(kAtShuffle, file, line); }

// Two places each, in turn: a lane may be one shuffle ahead of another, not two.
uint64_t& mine() { return exchanged[++current().shuffles % 2][thread_index.x]; }
uint64_t theirs(unsigned lane_xor) {
  return exchanged[current().shuffles % 2][thread_index.x ^ lane_xor];
}

void fail(const char* what) {
  error = what;
  current().started = false;  // its stack is given up
  __builtin_longjmp(scheduler, 1);
}

void run_blocks(const char* name, void (*entry)(const void*), const void* args, int64_t blocks,
                int threads, int shared_bytes) {
  const std::lock_guard<std::mutex> guard(one_launch);
  if (threads < kWarp || threads > kMaxThreads || threads % kWarp != 0)
    throw std::runtime_error(std::string(name) + ": " + std::to_string(threads) + " threads");
  const char* order = getenv("AMD_FUSED_HOST_ORDER");
  const bool reverse = order && std::string(order) == "reverse";
  launched += std::string(name) + "\n";
  entry_of_block = entry;
  args_of_block = args;
  block_size.x = threads;
  grid_size.x = unsigned(blocks);
  error.clear();
  for (int64_t i = 0; i < blocks; ++i) {
    block_index.x = unsigned(reverse ? blocks - 1 - i : i);
    shared.assign(shared_bytes, 0xff);
    shared.resize(shared_bytes + kRedZone, kUntouched);
    run_block(threads, reverse);
    for (int k = 0; k < kRedZone; ++k)
      if (error.empty() && shared[shared_bytes + k] != kUntouched)
        error = "a write past the block's shared memory";
    if (error.empty()) continue;
    for (Fiber& fiber : fibers) fiber.started = false;
    throw std::runtime_error(std::string(name) + ", block " + std::to_string(block_index.x) + ": " +
                             error);
  }
}

}  // namespace cuda_on_host

// The names of the kernels launched since the last call, a line each.
extern "C" __attribute__((visibility("default"))) const char* cuda_on_host_launched() {
  static std::string names;
  const std::lock_guard<std::mutex> guard(cuda_on_host::one_launch);
  names.swap(cuda_on_host::launched);
  cuda_on_host::launched.clear();
  return names.c_str();
}
