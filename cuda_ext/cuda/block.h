// What the threads of a warp or a block find out together: sums, largest values, prefix sums.
//
// All threads of the warp (or the block) must call these, whether they have something to add or not.
#pragma once

#include "device.h"

namespace hr {

__device__ __forceinline__ int lane_of_this_thread() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp_of_this_thread() { return static_cast<int>(threadIdx.x) / kWarp; }

// The sum over the warp's lanes, in every lane. The tree is the same on every run, and so are the last bits.
template <class T>
__device__ __forceinline__ T sum_over_warp(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// The largest value of the warp's lanes, in every lane.
template <class T>
__device__ __forceinline__ T largest_of_warp(T value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// The sum of what lanes before this one have.
template <class T>
__device__ __forceinline__ T scan_warp(T value, T* total) {
  const int lane = lane_of_this_thread();
  T sum = value;
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const T other = __shfl_up_sync(kWholeWarp, sum, static_cast<unsigned>(step));
    if (lane >= step) sum += other;
  }
  *total = __shfl_sync(kWholeWarp, sum, kWarp - 1);
  return sum - value;
}

// The sum of what threads before this one have, in a block of kThreads. warp_sums: kThreads / kWarp values of shared
// memory. Ends with a barrier, so that it can be called again at once.
template <class T>
__device__ __forceinline__ T scan_block(T value, T* warp_sums, T* total) {
  constexpr int kWarps = kThreads / kWarp;
  T in_warp = 0;
  const T before = scan_warp(value, &in_warp);
  if (lane_of_this_thread() == 0) warp_sums[warp_of_this_thread()] = in_warp;
  __syncthreads();
  T offset = 0, sum = 0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) {
    if (warp == warp_of_this_thread()) offset = sum;
    sum += warp_sums[warp];
  }
  __syncthreads();
  *total = sum;
  return offset + before;
}

}  // namespace hr
