// What losses that compare a student's map with a teacher's insist on.
#pragma once

#include <string>

#include "core/tensor.h"

namespace cohort::ops {

// Maps of one shape and dtype; weight, and loss where it is given, one number of accumulator dtype.
inline void check_map_pair(const char* op, const Tensor& student, const Tensor& teacher, const Tensor& weight,
                           const Tensor& loss) {
  if (student.shape != teacher.shape || student.dtype != teacher.dtype || student.shape.rank() < 1) {
    internal_error(std::string(op) + ": student " + student.shape.to_string() + " " + name_of(student.dtype) +
                   " vs teacher " + teacher.shape.to_string() + " " + name_of(teacher.dtype));
  }
  const DType a = accumulator_of(student.dtype);
  if (weight.count() != 1 || weight.dtype != a)
    internal_error(std::string(op) + ": weight is one number of accumulator dtype");
  if (!loss.empty() && (loss.count() != 1 || loss.dtype != a))
    internal_error(std::string(op) + ": loss is one number of accumulator dtype");
}

}  // namespace cohort::ops
