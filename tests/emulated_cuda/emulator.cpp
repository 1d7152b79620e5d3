// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "cuda_runtime.h"

namespace emulated_cuda {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // sanitisers make frames large
constexpr int kWarp = 32;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

// A place to go on from. swapcontext is two system calls, the jumps are none; but AddressSanitizer, which has
// to know of every stack, follows swapcontext alone.
struct Place {
  ucontext_t context;
  jmp_buf jump;
  bool entered = false;
};

void leave(Place& here, Place& there) {
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&here.context, &there.context);
#else
  if (_setjmp(here.jump) != 0) return;
  if (there.entered) _longjmp(there.jump, 1);
  there.entered = true;
  setcontext(&there.context);
#endif
}

struct Fiber {
  Place place;
  std::unique_ptr<char[]> stack;
  State state = State::kDone;
  unsigned mask = 0;  // of the warp barrier it waits at
  // What it leaves for the other lanes, and what they see: a copy made when the barrier opens, so that a fast
  // lane may leave its next value before a slow one has read this one.
  uint64_t left = 0, seen = 0;
};

struct Block {
  Place scheduler;
  std::deque<Fiber> fibers;  // never moved: their contexts point into themselves
  int threads = 0, current = 0;
  dim3 shape;
  const std::function<void()>* body = nullptr;
  std::unique_ptr<void, decltype(&std::free)> shared{nullptr, &std::free};
  std::mt19937 order{1};
};

// Kernels keep their static __shared__ arrays in one place, so one launch runs at a time.
std::mutex one_launch;
Block block;

[[noreturn]] void stop(const char* why) {
  std::fprintf(stderr, "emulated CUDA: %s (block %u %u %u of %d threads)\n", why, blockIdx.x, blockIdx.y,
               blockIdx.z, block.threads);
  std::abort();
}

Fiber& self() { return block.fibers[block.current]; }

void wait(State state) {
  self().state = state;
  leave(self().place, block.scheduler);
}

// A fiber runs one thread after the other, of all blocks and launches.
void enter() {
  for (;;) {
    (*block.body)();
    wait(State::kDone);
  }
}

void resume(int thread) {
  block.current = thread;
  const unsigned plane = block.shape.x * block.shape.y, t = static_cast<unsigned>(thread);
  threadIdx = {t % block.shape.x, t % plane / block.shape.x, t / plane};
  leave(block.scheduler, self().place);
}

// Frees the lanes of one warp whose barrier is complete.
bool release_warp(int first) {
  const int end = std::min(first + kWarp, block.threads);
  for (int t = first; t < end; ++t) {
    const Fiber& fiber = block.fibers[t];
    if (fiber.state != State::kAtWarpBarrier) continue;
    if (((fiber.mask >> (t - first)) & 1) == 0) stop("a lane is not in the mask that it passes");
    bool complete = true;
    for (int other = first; other < first + kWarp; ++other) {
      if (((fiber.mask >> (other - first)) & 1) == 0) continue;
      // A mask may name lanes that the launch does not have, as CUDA allows for a block's last warp.
      if (other >= end) continue;
      const Fiber& lane = block.fibers[other];
      complete &= lane.state == State::kAtWarpBarrier && lane.mask == fiber.mask;
    }
    if (!complete) continue;
    const unsigned mask = fiber.mask;
    for (int other = first; other < end; ++other) {
      Fiber& lane = block.fibers[other];
      if (((mask >> (other - first)) & 1) == 0) continue;
      lane.seen = lane.left;
      lane.state = State::kReady;
    }
    return true;
  }
  return false;
}

// A function of its own: sanitizers' compilers warn of loop variables around getcontext.
void start(Fiber& fiber) {
  fiber.state = State::kReady;
  if (fiber.stack) return;
  fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
  ucontext_t& context = fiber.place.context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
}

void run_block() {
  block.scheduler.entered = true;
  for (int t = 0; t < block.threads; ++t) start(block.fibers[t]);
  std::vector<int> ready;
  for (;;) {
    ready.clear();
    int waiting = 0;
    for (int t = 0; t < block.threads; ++t) {
      if (block.fibers[t].state == State::kReady) ready.push_back(t);
      if (block.fibers[t].state == State::kAtBlockBarrier) ++waiting;
    }
    std::shuffle(ready.begin(), ready.end(), block.order);
    for (int t : ready) resume(t);
    bool released = false;
    for (int first = 0; first < block.threads; first += kWarp) released |= release_warp(first);
    if (released || !ready.empty()) continue;
    int unfinished = 0;
    for (int t = 0; t < block.threads; ++t) unfinished += block.fibers[t].state != State::kDone;
    if (unfinished == 0) return;
    if (waiting != unfinished) stop("threads wait for lanes that never come");
    if (unfinished != block.threads) stop("__syncthreads() after some threads have returned");
    for (int t = 0; t < block.threads; ++t) block.fibers[t].state = State::kReady;
  }
}

}  // namespace

cudaError_t run(dim3 grid, dim3 shape, size_t shared_bytes, const std::function<void()>& body) {
  const std::lock_guard<std::mutex> lock(one_launch);
  const uint64_t threads = uint64_t{shape.x} * shape.y * shape.z;
  if (threads == 0 || threads > 1024 || shared_bytes > kMaxSharedBytes || grid.x == 0 ||
      grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
    return cudaErrorInvalidValue;
  }
  block.threads = static_cast<int>(threads);
  block.shape = shape;
  block.body = &body;
  while (block.fibers.size() < threads) block.fibers.emplace_back();
  blockDim = shape;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        // Of the exact size for the sanitiser, and all ones (NaN) so that a kernel that relies on zeros fails.
        void* shared = nullptr;
        if (posix_memalign(&shared, 128, shared_bytes) != 0) stop("out of memory");
        block.shared.reset(shared);
        std::memset(shared, 0xFF, shared_bytes);
        run_block();
      }
    }
  }
  return cudaSuccess;
}

void* dynamic_shared() { return block.shared.get(); }
void block_barrier() { wait(State::kAtBlockBarrier); }
int lane() { return block.current % kWarp; }

void warp_barrier(unsigned mask) {
  self().mask = mask;
  wait(State::kAtWarpBarrier);
}

uint64_t warp_exchange(unsigned mask, uint64_t bits, int source_lane) {
  self().left = bits;
  warp_barrier(mask);
  if (((mask >> source_lane) & 1) == 0) stop("a shuffle reads a lane outside its mask");
  const int source = block.current / kWarp * kWarp + source_lane;
  // On a GPU the value of a lane that does not exist is undefined.
  if (source >= block.threads) stop("a shuffle reads a lane that the block does not have");
  return block.fibers[source].seen;
}

unsigned warp_ballot(unsigned mask, bool predicate) {
  self().left = predicate ? 1 : 0;
  warp_barrier(mask);
  const int first = block.current / kWarp * kWarp, end = std::min(first + kWarp, block.threads);
  unsigned result = 0;
  for (int t = first; t < end; ++t) {
    const unsigned bit = 1u << (t - first);
    if ((mask & bit) != 0 && block.fibers[t].seen != 0) result |= bit;
  }
  return result;
}

}  // namespace emulated_cuda
