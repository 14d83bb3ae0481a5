// Sums of what pixels contribute to tables (gradients of vertices and attributes), the same bits for any number of threads.
#pragma once

#include <cstdint>
#include <functional>

namespace hr {

// Several tables, each of which gathers from its own run of pixels.
struct Tables {
  int64_t count;      // how many tables, one behind the other in the output
  int64_t floats;     // size of each
  int64_t pixels;     // that contribute to each
};

// Adds the contributions of pixels begin..end-1 of one table to `sums`; false when an index is out of range.
using AddPixels = std::function<bool(int64_t table, int64_t begin, int64_t end, float* sums)>;

// The pixels of a table are cut into strips, whose number follows from the sizes alone; each strip sums into a table of
// its own, and these are added up in the order of the strips. Returns HR_OK or HR_ERROR_INDEX.
int32_t sum_over_strips(const Tables& tables, int num_threads, float* out, const AddPixels& add);

// Whether every index lies in lowest..limit-1.
bool indices_within(const int32_t* index, int64_t count, int64_t lowest, int64_t limit);

}  // namespace hr
