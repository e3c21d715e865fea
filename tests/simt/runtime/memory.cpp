#include "simt/runtime/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include "simt/emulator/sanitizers.h"

namespace simt::runtime {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kPatternBytes = std::size_t{4} << 20;

// A file of 0xff in memory. Blocks are private mappings of it, again and again: memory that nobody writes
// costs nothing.
int pattern_file() {
  static const int file = [] {
    const int fd = memfd_create("fresh device memory", 0);
    if (fd < 0 || ftruncate(fd, kPatternBytes) != 0) throw std::bad_alloc();
    void* const data = mmap(nullptr, kPatternBytes, PROT_WRITE, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    std::memset(data, 0xff, kPatternBytes);
    munmap(data, kPatternBytes);
    return fd;
  }();
  return file;
}

void map_pattern(std::byte* pages, std::size_t bytes) {
  for (std::size_t offset = 0; offset < bytes; offset += kPatternBytes) {
    const std::size_t count = std::min(kPatternBytes, bytes - offset);
    if (mmap(pages + offset, count, PROT_NONE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, pattern_file(), 0) ==
        MAP_FAILED) {
      throw std::bad_alloc();
    }
  }
}

std::uintptr_t number(const void* address) {
  return reinterpret_cast<std::uintptr_t>(address);
}

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

struct sigaction previous_handler;

void explain_fault(int signal, siginfo_t* info, void* context) {
  if (const Block* block = DeviceMemory::instance().find(info->si_addr)) {
    const std::ptrdiff_t offset = static_cast<std::byte*>(info->si_addr) - block->data;
    const bool outside = offset < 0 || offset >= static_cast<std::ptrdiff_t>(block->bytes);
    std::fprintf(stderr, "emulated device: access at byte %td of a block of %zu bytes: %s\n", offset,
                 block->bytes,
                 !block->live ? "the block was freed"
                 : outside    ? "out of bounds"
                              : "host code touched device memory");
  }
  sigaction(signal, &previous_handler, nullptr);
  if (previous_handler.sa_flags & SA_SIGINFO) previous_handler.sa_sigaction(signal, info, context);
  // Else the access is repeated, and the process dies of it.
}

}  // namespace

DeviceMemory& DeviceMemory::instance() {
  static DeviceMemory* const memory = new DeviceMemory;
  return *memory;
}

DeviceMemory::DeviceMemory() {
  std::atexit(report_leaks);
  if (detail::with_asan()) return;  // it says more about a fault than we can
  struct sigaction action = {};
  action.sa_sigaction = explain_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &previous_handler);
}

void DeviceMemory::report_leaks() {
  const DeviceMemory& memory = instance();
  if (memory.num_live_ == 0) return;
  std::fprintf(stderr, "emulated device: %d blocks leaked, %zu bytes:", memory.num_live_, memory.in_use_);
  for (const auto& [address, block] : memory.blocks_) {
    if (block.live) std::fprintf(stderr, " %zu", block.bytes);
  }
  std::fprintf(stderr, "\n");
  std::fflush(nullptr);
  _exit(1);
}

std::byte* DeviceMemory::allocate(std::size_t bytes) {
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  Block block;
  block.bytes = bytes;
  block.page_bytes = round_up(bytes, page);
  void* mapped = mmap(nullptr, block.page_bytes + 2 * page, PROT_NONE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  block.pages = static_cast<std::byte*>(mapped) + page;
  // The end of the block meets the page nobody may touch, as closely as the alignment allows.
  block.data = block.pages + block.page_bytes - round_up(bytes, kAlignment);
  map_pattern(block.pages, block.page_bytes);
  detail::poison(block.pages, static_cast<std::size_t>(block.data - block.pages));
  detail::poison(block.data + bytes, round_up(bytes, kAlignment) - bytes);
  in_use_ += bytes;
  ++num_live_;
  protect(block);
  blocks_[number(block.data)] = block;
  return block.data;
}

void DeviceMemory::free(Block& block) {
  block.live = false;
  in_use_ -= block.bytes;
  --num_live_;
  // Nobody's, for ever.
  mmap(block.pages, block.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1,
       0);
}

Block* DeviceMemory::find(const void* address) {
  auto next = blocks_.upper_bound(number(address));
  // The page before a block belongs to it too.
  if (next != blocks_.end() && number(next->second.pages) <= number(address)) return &next->second;
  if (next == blocks_.begin()) return nullptr;
  Block& block = std::prev(next)->second;
  const std::uintptr_t end = number(block.pages) + block.page_bytes;
  return number(address) < end + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)) ? &block : nullptr;
}

void DeviceMemory::protect(const Block& block) const {
  mprotect(block.pages, block.page_bytes, block.live && open_ > 0 ? PROT_READ | PROT_WRITE : PROT_NONE);
}

void DeviceMemory::open() {
  if (open_++ > 0) return;
  for (const auto& [address, block] : blocks_) {
    if (block.live) protect(block);
  }
}

void DeviceMemory::close() {
  if (--open_ > 0) return;
  for (const auto& [address, block] : blocks_) {
    if (block.live) protect(block);
  }
}

PinnedMemory& PinnedMemory::instance() {
  static PinnedMemory* const memory = new PinnedMemory;
  return *memory;
}

void* PinnedMemory::allocate(std::size_t bytes) {
  void* data = nullptr;
  if (posix_memalign(&data, kAlignment, bytes) != 0) return nullptr;
  std::memset(data, 0xff, bytes);
  blocks_[number(data)] = bytes;
  in_use_ += bytes;
  return data;
}

bool PinnedMemory::free(void* data) {
  const auto found = blocks_.find(number(data));
  if (found == blocks_.end()) return false;
  in_use_ -= found->second;
  blocks_.erase(found);
  std::free(data);
  return true;
}

PinnedMemory::Where PinnedMemory::locate(const void* address, std::size_t bytes) const {
  const std::uintptr_t begin = number(address), end = begin + bytes;
  const auto next = blocks_.upper_bound(begin);
  if (next != blocks_.begin()) {
    const auto& [at, size] = *std::prev(next);
    if (begin < at + size) return end <= at + size ? Where::kIn : Where::kAcross;
  }
  return next != blocks_.end() && next->first < end ? Where::kAcross : Where::kOut;
}

}  // namespace simt::runtime
