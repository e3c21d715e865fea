#include "core/arena.h"

#include <algorithm>

#include "kernels/base/error.h"
#include "kernels/memory.h"

namespace cohort {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t round_up(std::size_t bytes) {
  return std::max(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment);
}

}  // namespace

void* MemorySource::allocate(std::size_t bytes) const {
  if constexpr (kHasCuda) {
    if (device_ == DeviceKind::kCuda) return kernels::allocate(cuda_, bytes);
  }
  return kernels::allocate(cpu_, bytes);
}

void MemorySource::deallocate(void* data) const noexcept {
  if constexpr (kHasCuda) {
    if (device_ == DeviceKind::kCuda) return kernels::deallocate(cuda_, data);
  }
  kernels::deallocate(cpu_, data);
}

void MemorySource::poison(void* data, std::size_t bytes) const {
  if constexpr (kHasCuda) {
    if (device_ == DeviceKind::kCuda) return kernels::poison(cuda_, data, bytes);
  }
  kernels::poison(cpu_, data, bytes);
}

Arena::~Arena() {
  for (const Chunk& chunk : chunks_) source_.deallocate(chunk.data);
}

void* Arena::allocate(std::size_t bytes) {
  const std::size_t size = round_up(bytes);
  in_use_ += size;
  peak_ = std::max(peak_, in_use_);
  for (FreeList& list : free_lists_) {
    if (list.bytes == size && !list.blocks.empty()) {
      void* data = list.blocks.back();
      list.blocks.pop_back();
      return data;
    }
  }
  while (current_ < chunks_.size() && offset_ + size > chunks_[current_].bytes) {
    ++current_;
    offset_ = 0;
  }
  if (current_ == chunks_.size()) {
    const std::size_t chunk = std::max(size, chunk_bytes_);
    chunks_.push_back({static_cast<std::byte*>(source_.allocate(chunk)), chunk});
    reserved_ += chunk;
    offset_ = 0;
  }
  void* data = chunks_[current_].data + offset_;
  offset_ += size;
  if (poison_) source_.poison(data, size);
  return data;
}

void Arena::recycle(void* data, std::size_t bytes) {
  const std::size_t size = round_up(bytes);
  in_use_ -= size;
  if (poison_) source_.poison(data, size);
  for (FreeList& list : free_lists_) {
    if (list.bytes == size) {
      list.blocks.push_back(data);
      return;
    }
  }
  free_lists_.push_back({size, {data}});
}

void Arena::reset() {
  for (FreeList& list : free_lists_) list.blocks.clear();
  current_ = 0;
  offset_ = 0;
  in_use_ = 0;
}

}  // namespace cohort
