// Stands in for CUDA where there is none: runs kernels on the CPU, one thread after another. For tests only.
//
// The threads of a block are fibres. One runs until it ends or meets a collective (__shfl_sync, __syncthreads and the like),
// and goes on once all that take part have met it too. Blocks, and threads within a block, run in an order that changes
// from launch to launch, so that what must not depend on it is seen not to. What cannot be seen here: races within one
// instruction, the memory model, and what the compiler makes of the device code.
#pragma once

#include <math.h>
#include <setjmp.h>
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
#define __align__(bytes) __attribute__((aligned(bytes)))
// Blocks run one after another, so one copy serves all. The section lets run_block fill it with rubbish before each.
#define __shared__ static __attribute__((section("hr_shared"), used))

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

// Where a fibre was left. A context starts it; swapcontext also saves the mask of signals, which takes two calls of the
// operating system, so that later switches are jumps, a tenth of the time. The address sanitizer understands contexts only.
struct Place {
  ucontext_t context;
  jmp_buf at;
};

struct Fibre {
  Place place;
  unsigned thread = 0;
  bool started = false, ended = false;
  std::unique_ptr<char[]> stack;
};

inline void switch_places(Place& from, Place& to, bool fresh) {
#if defined(__SANITIZE_ADDRESS__)
  (void)fresh;
  swapcontext(&from.context, &to.context);
#else
  if (_setjmp(from.at) != 0) return;
  if (fresh) setcontext(&to.context);
  _longjmp(to.at, 1);
#endif
}

// One collective of one warp, or of the whole block: who has arrived, and with what.
struct Meeting {
  unsigned members = 0, arrived = 0, left = 0;
  uint64_t generation = 0;
  uint64_t posted[kLanes] = {}, agreed[kLanes] = {};
  int counting = 0, counted = 0;
};

struct Block {
  Place scheduler;
  std::vector<Fibre> fibres;
  std::vector<Meeting> warps;
  Meeting everyone;
  Fibre* running = nullptr;
  const std::function<void()>* body = nullptr;
  std::vector<uint64_t> dynamic_shared;  // that the launch asked for
};

inline Block block;

// Both ends of what __shared__ put into the section; null in a library without any.
extern "C" __attribute__((weak, visibility("hidden"))) char __start_hr_shared[], __stop_hr_shared[];

// Shared memory starts undefined: as NaN, and as an index that is out of range.
inline void spoil_shared_memory(size_t dynamic_bytes) {
  if (__start_hr_shared) memset(__start_hr_shared, 0xff, static_cast<size_t>(__stop_hr_shared - __start_hr_shared));
  block.dynamic_shared.assign((dynamic_bytes + 7) / 8, ~uint64_t{0});
}

[[noreturn]] inline void stop(const char* why) {
  fprintf(stderr, "CUDA emulation: %s\n", why);
  abort();
}

inline void give_way() { switch_places(block.running->place, block.scheduler, false); }

// Post a value and wait for the others; the values of all are then in `agreed`.
inline const uint64_t* meet(Meeting& meeting, unsigned seat, uint64_t value) {
  meeting.posted[seat] = value;
  const uint64_t mine = meeting.generation;
  if (++meeting.arrived == meeting.members) {
    memcpy(meeting.agreed, meeting.posted, sizeof(meeting.posted));
    meeting.counted = meeting.counting;
    meeting.counting = 0;
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
    fibre.started = fibre.ended = false;
    if (!fibre.stack) fibre.stack.reset(new char[kStackBytes]);
    ucontext_t& context = fibre.place.context;
    getcontext(&context);
    context.uc_stack.ss_sp = fibre.stack.get();
    context.uc_stack.ss_size = kStackBytes;
    context.uc_link = nullptr;
    makecontext(&context, run_fibre, 0);
  }
  for (unsigned ended = 0; ended < threads;) {
    for (unsigned i = 0; i < threads; ++i) {
      Fibre& fibre = block.fibres[turn % 2 ? threads - 1 - i : i];
      if (fibre.ended) continue;
      block.running = &fibre;
      const bool fresh = !fibre.started;
      fibre.started = true;
      switch_places(block.scheduler, fibre.place, fresh);
      ended += block.running->ended;
    }
  }
}

inline void run_grid(dim3 blocks, unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  const bool sane = blocks.x > 0 && blocks.y > 0 && blocks.y <= 65535 && blocks.x <= 0x7fffffffu && threads > 0 &&
                    threads <= 1024 && shared_bytes <= (48u << 10);
  if (!sane) {
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
    spoil_shared_memory(shared_bytes);
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
inline void __syncwarp(unsigned mask = 0xffffffffu) { hr_emulation::meet_warp(mask, 0); }
inline void __threadfence() {}
inline int __syncthreads_count(int predicate) {
  hr_emulation::Meeting& everyone = hr_emulation::block.everyone;
  everyone.counting += predicate ? 1 : 0;
  hr_emulation::meet(everyone, 0, 0);
  return everyone.counted;
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) > 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* all = hr_emulation::meet_warp(mask, predicate ? 1 : 0);
  unsigned bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<unsigned>(all[i]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == 0xffffffffu; }
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
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return __shfl_sync(mask, value, (static_cast<int>(hr_emulation::block.running->thread) & 31) ^ other);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  const int lane = static_cast<int>(hr_emulation::block.running->thread) & 31;
  return __shfl_sync(mask, value, lane >= static_cast<int>(by) ? lane - static_cast<int>(by) : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const int lane = static_cast<int>(hr_emulation::block.running->thread) & 31;
  return __shfl_sync(mask, value, lane + static_cast<int>(by) < 32 ? lane + static_cast<int>(by) : lane);
}
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
inline int __clz(int bits) { return bits == 0 ? 32 : __builtin_clz(static_cast<unsigned>(bits)); }
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

struct float2 { float x, y; };
inline float2 make_float2(float x, float y) { return {x, y}; }
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
void launch_sized(const HrCudaLaunch&, dim3 blocks, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...),
                  Arguments... arguments) {
  hr_emulation::run_grid(blocks, threads, shared_bytes, [&] { kernel(arguments...); });
}
inline unsigned char* dynamic_shared() { return reinterpret_cast<unsigned char*>(hr_emulation::block.dynamic_shared.data()); }
}  // namespace hr
