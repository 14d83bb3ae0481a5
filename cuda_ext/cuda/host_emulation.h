// Stands in for CUDA where there is none: runs kernels on the CPU, one thread after another. For tests only.
//
// The threads of a block are fibres. One runs until it ends or meets a collective (__shfl_sync, __syncthreads and the like),
// and goes on once all that take part have met it too. Blocks, and threads within a block, run in an order that changes
// from launch to launch, so that what must not depend on it is seen not to. What cannot be seen here: races within one
// instruction, the memory model, and what the compiler makes of the device code.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <functional>
#include <memory>
#include <vector>

#define __global__ static
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__

typedef void* cudaStream_t;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidConfiguration = 9, cudaErrorInvalidDevice = 101 };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount = 16 };

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace hr_emulation {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 256 << 10;

inline dim3 block_index, grid_size, block_size;
inline cudaError_t pending_error = cudaSuccess;
inline unsigned launches = 0;

struct Fibre {
  ucontext_t context;
  unsigned thread = 0;
  bool ended = false;
  std::unique_ptr<char[]> stack;
};

// One collective of one warp, or of the whole block: who has arrived, and with what.
struct Meeting {
  unsigned members = 0, arrived = 0, left = 0;
  uint64_t generation = 0;
  uint64_t posted[kLanes] = {}, agreed[kLanes] = {};
};

struct Block {
  ucontext_t scheduler;
  std::vector<Fibre> fibres;
  std::vector<Meeting> warps;
  Meeting everyone;
  Fibre* running = nullptr;
  const std::function<void()>* body = nullptr;
};

inline Block block;

[[noreturn]] inline void stop(const char* why) {
  fprintf(stderr, "CUDA emulation: %s\n", why);
  abort();
}

inline void give_way() { swapcontext(&block.running->context, &block.scheduler); }

// Post a value and wait for the others; the values of all are then in `agreed`.
inline const uint64_t* meet(Meeting& meeting, unsigned seat, uint64_t value) {
  meeting.posted[seat] = value;
  const uint64_t mine = meeting.generation;
  if (++meeting.arrived == meeting.members) {
    memcpy(meeting.agreed, meeting.posted, sizeof(meeting.posted));
    meeting.arrived = 0;
    ++meeting.generation;
    return meeting.agreed;
  }
  while (meeting.generation == mine) {
    if (meeting.left > 0) stop("a thread ended while others of its group wait in a collective");
    give_way();
  }
  return meeting.agreed;
}

inline const uint64_t* meet_warp(unsigned mask, uint64_t value) {
  if (mask != 0xffffffffu) stop("only collectives of whole warps are emulated");
  const unsigned thread = block.running->thread;
  return meet(block.warps[thread / kLanes], thread % kLanes, value);
}

inline void run_fibre() {
  (*block.body)();
  Fibre* self = block.running;
  self->ended = true;
  Meeting& warp = block.warps[self->thread / kLanes];
  ++warp.left;
  ++block.everyone.left;
  if (warp.arrived > 0 || block.everyone.arrived > 0) stop("a thread ended while others of its group wait in a collective");
  give_way();
}

inline void run_block(const std::function<void()>& body, unsigned threads, unsigned turn) {
  if (threads % kLanes) stop("blocks of whole warps only");
  block.body = &body;
  block.fibres.resize(threads);
  block.warps.assign(threads / kLanes, Meeting());
  for (Meeting& warp : block.warps) warp.members = kLanes;
  block.everyone = Meeting();
  block.everyone.members = threads;
  for (unsigned i = 0; i < threads; ++i) {
    Fibre& fibre = block.fibres[i];
    fibre.thread = i;
    fibre.ended = false;
    if (!fibre.stack) fibre.stack.reset(new char[kStackBytes]);
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack.get();
    fibre.context.uc_stack.ss_size = kStackBytes;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, run_fibre, 0);
  }
  for (unsigned ended = 0; ended < threads;) {
    for (unsigned i = 0; i < threads; ++i) {
      Fibre& fibre = block.fibres[turn % 2 ? threads - 1 - i : i];
      if (fibre.ended) continue;
      block.running = &fibre;
      swapcontext(&block.scheduler, &fibre.context);
      ended += fibre.ended;
    }
  }
}

inline void run_grid(dim3 blocks, unsigned threads, const std::function<void()>& body) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.y > 65535 || blocks.x > 0x7fffffffu) {
    pending_error = cudaErrorInvalidConfiguration;
    return;
  }
  grid_size = blocks;
  block_size = dim3(threads);
  const unsigned turn = launches++;
  const uint64_t count = static_cast<uint64_t>(blocks.x) * blocks.y;
  for (uint64_t i = 0; i < count; ++i) {
    // Forwards, backwards, or every other one first.
    const uint64_t half = (count + 1) / 2, alternating = i < half ? 2 * i : 2 * (i - half) + 1;
    const uint64_t at = turn % 3 == 0 ? i : (turn % 3 == 1 ? count - 1 - i : alternating);
    block_index = dim3(static_cast<unsigned>(at % blocks.x), static_cast<unsigned>(at / blocks.x));
    run_block(body, threads, turn);
  }
}

}  // namespace hr_emulation

#define threadIdx (dim3(hr_emulation::block.running->thread, 0, 0))
#define blockIdx (hr_emulation::block_index)
#define gridDim (hr_emulation::grid_size)
#define blockDim (hr_emulation::block_size)

inline void __syncthreads() {
  hr_emulation::meet(hr_emulation::block.everyone, 0, 0);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = hr_emulation::meet_warp(mask, predicate ? 1 : 0);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline unsigned __match_any_sync(unsigned mask, int value) {
  const uint64_t* all = hr_emulation::meet_warp(mask, static_cast<uint32_t>(value));
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= (all[i] == static_cast<uint32_t>(value) ? 1u : 0u) << i;
  return bits;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  const uint64_t* all = hr_emulation::meet_warp(mask, bits);
  T other;
  memcpy(&other, &all[lane & 31], sizeof(T));
  return other;
}
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }

template <class T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at = before + value;
  return before;
}
template <class T>
T atomicMin(T* at, T value) {
  const T before = *at;
  if (value < before) *at = value;
  return before;
}
template <class T>
T atomicMax(T* at, T value) {
  const T before = *at;
  if (value > before) *at = value;
  return before;
}

inline float __uint_as_float(unsigned bits) { float f; memcpy(&f, &bits, 4); return f; }
inline unsigned __float_as_uint(float f) { unsigned bits; memcpy(&bits, &f, 4); return bits; }

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = hr_emulation::pending_error;
  hr_emulation::pending_error = cudaSuccess;
  return error;
}
inline const char* cudaGetErrorString(cudaError_t error) { return error == cudaErrorInvalidDevice ? "invalid device ordinal" : "invalid configuration argument"; }
inline const char* cudaGetErrorName(cudaError_t error) { return error == cudaErrorInvalidDevice ? "cudaErrorInvalidDevice" : "cudaErrorInvalidConfiguration"; }
inline cudaError_t cudaGetDevice(int* device) { *device = 0; return cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : cudaErrorInvalidDevice; }
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { *value = 1; return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t) { memset(data, value, bytes); return cudaSuccess; }

struct HrCudaLaunch;
namespace hr {
template <class... Parameters, class... Arguments>
void launch_blocks(const HrCudaLaunch&, dim3 blocks, void (*kernel)(Parameters...), Arguments... arguments) {
  hr_emulation::run_grid(blocks, 256, [&] { kernel(arguments...); });
}
}  // namespace hr
