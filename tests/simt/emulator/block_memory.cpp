#include "simt/emulator/block_memory.h"

#include <sys/mman.h>

#include <new>

#include "simt/emulator/sanitizers.h"

namespace simt::detail {
namespace {

constexpr std::size_t kRedZone = 128;
constexpr unsigned char kRedZoneByte = 0xA5;
constexpr unsigned char kUnwritten = 0xFF;  // a NaN as float, -1 as integer

// No memset: the race detector would take it for an access of the thread that happens to run.
void fill(unsigned char* p, std::size_t size, unsigned char value) {
  for (std::size_t i = 0; i < size; ++i) p[i] = value;
}

bool filled(const unsigned char* p, std::size_t size, unsigned char value) {
  for (std::size_t i = 0; i < size; ++i) {
    if (p[i] != value) return false;
  }
  return true;
}

std::size_t round_up(std::size_t n, std::size_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

BlockMemory::BlockMemory() {
  capacity_ = std::size_t{with_tsan() ? 16384U : 32U} << 20;
  void* const memory =
      mmap(nullptr, capacity_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  base_ = static_cast<unsigned char*>(memory);
  if (with_asan()) poison(base_, capacity_);
}

void BlockMemory::begin_launch(std::size_t dynamic_bytes) {
  dynamic_bytes_ = dynamic_bytes;
  end_ = 0;
}

void BlockMemory::begin_blocks() {
  if (!with_tsan()) end_ = 0;
}

void BlockMemory::end_block(Block& block) {
  for (int i = 0; i < block.num_variables; ++i) {
    poison(base_ + block.variables[i].offset, block.variables[i].size);
  }
  block.static_bytes = 0;
  block.num_variables = 0;
}

void* BlockMemory::variable(Block& block, const void* key, std::size_t size, std::size_t alignment,
                            const char* name, const char** error) {
  for (int i = 0; i < block.num_variables; ++i) {
    if (block.variables[i].key == key) return base_ + block.variables[i].offset;
  }
  block.static_bytes += round_up(size, 16);
  if (block.static_bytes > kStaticLimit) {
    *error = "static shared memory of more than 48 KiB";
    return nullptr;
  }
  return place(block, key, size, alignment, name, error);
}

void* BlockMemory::dynamic(Block& block, const char** error) {
  for (int i = 0; i < block.num_variables; ++i) {
    if (block.variables[i].key == nullptr) return base_ + block.variables[i].offset;
  }
  return place(block, nullptr, dynamic_bytes_, 16, "dynamic shared memory", error);
}

void* BlockMemory::place(Block& block, const void* key, std::size_t size, std::size_t alignment,
                         const char* name, const char** error) {
  if (block.static_bytes + dynamic_bytes_ > kTotalLimit) {
    *error = "shared memory of a block of more than 163 KiB";
  } else if (block.num_variables == kMaxVariables) {
    *error = "more shared variables than the emulator holds (kMaxVariables)";
  } else if (alignment > 16 && alignment % 16 != 0) {
    *error = "alignment of a shared variable";
  }
  const std::size_t offset = round_up(end_ + kRedZone, alignment > 16 ? alignment : 16);
  if (*error == nullptr && offset + size + 2 * kRedZone > capacity_) {
    *error = "more blocks with shared memory than the emulator has room for";
  }
  if (*error != nullptr) return nullptr;
  if (!with_asan()) fill(base_ + end_, offset - end_, kRedZoneByte);
  unpoison(base_ + offset, size);
  fill(base_ + offset, size, kUnwritten);
  end_ = offset + size;
  const std::size_t stop = round_up(end_ + kRedZone, 64);
  if (!with_asan()) fill(base_ + end_, stop - end_, kRedZoneByte);
  end_ = stop;
  block.variables[block.num_variables++] = {key, offset, size, name};
  return base_ + offset;
}

const char* BlockMemory::damaged(const Block& block) const {
  if (with_asan()) return nullptr;  // the write itself was reported
  for (int i = 0; i < block.num_variables; ++i) {
    const Block::Variable& v = block.variables[i];
    const unsigned char* const p = base_ + v.offset;
    if (!filled(p - kRedZone, kRedZone, kRedZoneByte) || !filled(p + v.size, kRedZone, kRedZoneByte)) {
      return v.name;
    }
  }
  return nullptr;
}

}  // namespace simt::detail
