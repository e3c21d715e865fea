#include "core/tape.h"

namespace cohort {

void Tape::clear() {
  nodes_.clear();
  block_ = 0;
  offset_ = 0;
}

void* Tape::take(std::size_t bytes, std::size_t alignment) {
  check(bytes <= kBlockBytes, "tape: node too large");
  offset_ = (offset_ + alignment - 1) / alignment * alignment;
  if (block_ < blocks_.size() && offset_ + bytes > kBlockBytes) {
    ++block_;
    offset_ = 0;
  }
  if (block_ == blocks_.size()) {
    blocks_.push_back(std::make_unique<std::byte[]>(kBlockBytes));
    offset_ = 0;
  }
  void* data = blocks_[block_].get() + offset_;
  offset_ += bytes;
  return data;
}

}  // namespace cohort
