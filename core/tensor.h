// A tensor is a view: a pointer into arena memory, a shape (dense, row-major) and a dtype. It owns nothing
// and is copied freely; the arena decides how long the memory lives (core/arena.h).
#pragma once

#include "core/shape.h"
#include "kernels/base/dtype.h"

namespace cohort {

// Where the gradient of a value is collected. Values of a step get one from the tape; a parameter keeps its
// own, which points into the network's flat gradient block.
struct GradSlot {
  void* data = nullptr;  // null until the first backward kernel asks for it
  DType dtype = DType::f32;
  bool written = false;     // false: the next writer overwrites; true: it accumulates
  bool persistent = false;  // a parameter's: never recycled
  int branch = 0;           // whose arena the memory comes from
};

struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  GradSlot* grad = nullptr;  // null: no gradient wanted

  bool empty() const { return data == nullptr; }
  std::int64_t count() const { return shape.count(); }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype); }

  template <class T>
  T* as() const {
    check(dtype == dtype_of<T>(), "tensor: read as another dtype");
    return static_cast<T*>(data);
  }

  // The same value without a gradient: a constant to whatever reads it.
  Tensor detached() const { return {data, shape, dtype, nullptr}; }
};

}  // namespace cohort
