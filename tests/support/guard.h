// Buffers that notice a write outside their bounds and an element that was never written.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace cohort::test {

// `count` elements of T between two canaries of 64 elements. Everything starts as the byte 0xFF, which is NaN
// for the floating types and -1 for the integers: an element that a kernel forgets stays NaN. `misalign`
// shifts the first element by that many elements from a 64-byte boundary.
template <class T>
class Guarded {
 public:
  static constexpr std::size_t kCanary = 64 * sizeof(T);  // bytes, on either side

  explicit Guarded(std::size_t count, std::size_t misalign = 0)
      : count_(count),
        misalign_(misalign),
        bytes_(count * sizeof(T) + 2 * kCanary + kAlignment + misalign * sizeof(T), 0xFF) {
    const auto base = reinterpret_cast<std::uintptr_t>(bytes_.data()) + kCanary;
    const std::uintptr_t aligned = (base + kAlignment - 1) / kAlignment * kAlignment;
    offset_ = aligned - reinterpret_cast<std::uintptr_t>(bytes_.data()) + misalign * sizeof(T);
  }
  explicit Guarded(const std::vector<T>& values, std::size_t misalign = 0)
      : Guarded(values.size(), misalign) {
    if (!values.empty()) std::memcpy(data(), values.data(), values.size() * sizeof(T));
  }

  T* data() { return reinterpret_cast<T*>(bytes_.data() + offset_); }
  const T* data() const { return reinterpret_cast<const T*>(bytes_.data() + offset_); }
  std::size_t size() const { return count_; }
  std::size_t misalign() const { return misalign_; }
  std::span<T> span() { return {data(), count_}; }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  std::vector<T> values() const { return std::vector<T>(data(), data() + count_); }

  // Nothing outside the elements was written.
  ::testing::AssertionResult intact() const {
    const std::size_t end = offset_ + count_ * sizeof(T);
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      if (i == offset_) i = end;
      if (i < bytes_.size() && bytes_[i] != 0xFF) {
        return ::testing::AssertionFailure()
               << "byte " << static_cast<std::ptrdiff_t>(i - offset_) << " relative to a buffer of "
               << count_ * sizeof(T) << " bytes was overwritten";
      }
    }
    return ::testing::AssertionSuccess();
  }

 private:
  static constexpr std::size_t kAlignment = 64;
  std::size_t count_;
  std::size_t misalign_;
  std::vector<unsigned char> bytes_;
  std::size_t offset_ = 0;
};

// Scratch memory of exactly the size that a kernel asked for, 64-byte aligned, filled with NaN.
class Scratch {
 public:
  explicit Scratch(std::size_t bytes) : buffer_(bytes) {}
  std::span<std::byte> span() { return {reinterpret_cast<std::byte*>(buffer_.data()), buffer_.size()}; }
  ::testing::AssertionResult intact() const { return buffer_.intact(); }
  Guarded<unsigned char>& buffer() { return buffer_; }

 private:
  Guarded<unsigned char> buffer_;
};

}  // namespace cohort::test
