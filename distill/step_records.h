// What steps measured: a ring that the last operation of a step writes and the host reads later.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/context.h"
#include "distill/method.h"
#include "kernels/readback.h"

namespace cohort::distill {

class StepRecords {
 public:
  // Steps that may be enqueued before the first of them is read.
  static constexpr std::int64_t kMaxAhead = 64;

  explicit StepRecords(Context& ctx);
  ~StepRecords();
  StepRecords(const StepRecords&) = delete;
  StepRecords& operator=(const StepRecords&) = delete;

  // Inside a step, as its last operation. `step`: (1) i32; at most 512 values.
  void write(const std::vector<Tensor>& sources, const Tensor& step);

  // After the step was enqueued.
  void mark(std::int64_t step, const Report* report);

  // The values of a step, in the order they were written, and its report; waits for the step.
  std::pair<const double*, const Report*> read(std::int64_t step);

 private:
  Context& ctx_;
  double* ring_ = nullptr;  // pinned
  std::array<kernels::Marker, kMaxAhead> markers_{};
  std::array<const Report*, kMaxAhead> reports_{};
};

}  // namespace cohort::distill
