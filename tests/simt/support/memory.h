// Global memory of a test: exactly as large as asked for, aligned as cudaMalloc aligns.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <span>
#include <vector>

#if defined(__CUDACC__) || defined(SIMT_ON_DEVICE)
#include <cuda_runtime.h>

#include <stdexcept>
#endif

namespace simt::test {

#if defined(SIMT_ON_DEVICE)
inline void require(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}
#endif

template <class T>
class Memory {
 public:
  explicit Memory(const std::vector<T>& values) : size_(values.size()) {
    const std::size_t bytes = size_ * sizeof(T);
#if defined(SIMT_ON_DEVICE)
    void* data = nullptr;
    require(cudaMalloc(&data, bytes));
    data_ = static_cast<T*>(data);
    require(cudaMemcpy(data_, values.data(), bytes, cudaMemcpyHostToDevice));
#else
    data_ = static_cast<T*>(::operator new (bytes, std::align_val_t{256}));
    for (std::size_t i = 0; i < size_; ++i) data_[i] = values[i];
#endif
  }
  explicit Memory(std::size_t size, T value = T{}) : Memory(std::vector<T>(size, value)) {}
  ~Memory() {
#if defined(SIMT_ON_DEVICE)
    cudaFree(data_);
#else
    ::operator delete (data_, std::align_val_t{256});
#endif
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  T* data() {
    return data_;
  }

  // What is there once all launches are done.
  std::vector<T> values() const {
#if defined(SIMT_ON_DEVICE)
    std::vector<T> copy(size_);
    require(cudaMemcpy(copy.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return copy;
#else
    return std::vector<T>(data_, data_ + size_);
#endif
  }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

}  // namespace simt::test
