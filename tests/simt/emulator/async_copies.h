// Copies of one CUDA thread that are under way: made when the thread waits for their group.
#pragma once

#include <array>

namespace simt::detail {

class AsyncCopies {
 public:
  static constexpr int kCapacity = 64;

  void clear() { size_ = group_ = first_ = 0; }

  // False: more copies under way than fit.
  bool push(void* shared, const void* global) {
    if (size_ == kCapacity) return false;
    copies_[static_cast<std::size_t>((first_ + size_++) % kCapacity)] = {shared, global, group_};
    return true;
  }
  void commit() { ++group_; }

  // The oldest copy of a group that is committed and not among the `newest`; false: none.
  bool pop(int newest, void** shared, const void** global) {
    const Copy& oldest = copies_[static_cast<std::size_t>(first_)];
    if (size_ == 0 || oldest.group >= group_ - newest) return false;
    *shared = oldest.shared;
    *global = oldest.global;
    first_ = (first_ + 1) % kCapacity;
    --size_;
    return true;
  }

 private:
  struct Copy {
    void* shared;
    const void* global;
    int group;
  };
  std::array<Copy, kCapacity> copies_{};
  int first_ = 0, size_ = 0, group_ = 0;
};

}  // namespace simt::detail
