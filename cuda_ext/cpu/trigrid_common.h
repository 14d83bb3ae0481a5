// What the drivers of the tri-grid ops share: checks, places of points, decoders laid out for vectors, scratch memory.
#pragma once

#include <vector>

#include "trigrid_kernels.h"

namespace hr {

const TrigridKernels& trigrid_kernels(int32_t isa);

bool is_sane(const HrTrigrid& field);
bool is_sane(const HrTrigrid& field, const HrDecoder& decoder);

// Where n points fall, `charts` places each.
void find_places(const HrTrigrid& field, const float* points, int64_t n, Place* places);
// What the gradients of places say about the points; overwrites grad_points.
void point_gradients(const HrTrigrid& field, const float* points, int64_t n, const Place* grad, float* grad_points);

inline int whole_vectors(int n) { return (n + 15) / 16 * 16; }

// Owns the memory behind a PreparedDecoder.
class DecoderMemory {
 public:
  explicit DecoderMemory(const HrDecoder& decoder, int channels);
  const PreparedDecoder& get() const { return prepared_; }

 private:
  PreparedDecoder prepared_;
  std::vector<float> memory_;
};

// Tables of decoder gradients that are added up in a fixed order.
class DecoderTables {
 public:
  DecoderTables(const PreparedDecoder& decoder, bool wanted) : decoder_(decoder), wanted_(wanted) {}
  // Makes room for this many tables, all 0.
  void clear(int64_t tables);
  DecoderSums table(int64_t index);  // null pointers when not wanted
  // Adds the tables, in order, to the total.
  void add_up();
  // Writes the total where the caller wants it.
  void write(const HrDecoderGrad& out) const;

 private:
  int64_t floats() const;
  DecoderSums at(float* memory) const;
  PreparedDecoder decoder_;
  bool wanted_;
  std::vector<float> tables_, total_;
};

// Memory that a thread keeps between calls, as page faults cost more than what it is used for.
class Scratch {
 public:
  explicit Scratch(std::vector<float>& memory, int64_t floats) : memory_(memory) {
    if (static_cast<int64_t>(memory_.size()) < floats) memory_.resize(floats);
  }
  float* take(int64_t floats) {
    float* begin = memory_.data() + used_;
    used_ += floats;
    return begin;
  }

 private:
  std::vector<float>& memory_;
  int64_t used_ = 0;
};

// This thread's scratch memory.
std::vector<float>& thread_memory();

}  // namespace hr
