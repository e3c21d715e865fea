// Hands out a workspace from front to back in aligned pieces. Without memory behind it only counts, so that a
// size function walks the very steps of the kernel it speaks for.
#pragma once

#include <cstddef>

#include "kernels/base/error.h"
#include "kernels/base/stream.h"

namespace cohort::kernels::cpu {

constexpr std::size_t aligned(std::size_t bytes) {
  constexpr std::size_t kAlignment = 64;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

class Scratch {
 public:
  explicit Scratch(Workspace workspace = {}) : workspace_(workspace) {}

  std::byte* take(std::size_t bytes) {
    std::byte* const data = workspace_.data() == nullptr ? nullptr : workspace_.data() + used_;
    used_ += aligned(bytes);
    check(workspace_.data() == nullptr || used_ <= workspace_.size(), "kernel: the workspace is too small");
    return data;
  }
  template <class T>
  T* take(std::int64_t count) {
    return reinterpret_cast<T*>(take(static_cast<std::size_t>(count) * sizeof(T)));
  }
  std::size_t used() const { return used_; }

 private:
  Workspace workspace_;
  std::size_t used_ = 0;
};

}  // namespace cohort::kernels::cpu
