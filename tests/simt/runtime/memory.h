// Memory of the fake device, and pinned host memory.
//
// A block of device memory has pages of its own between two that nobody may touch; addresses are never given
// out twice. Its pages are open while the device runs and closed while the host does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace simt::runtime {

struct Block {
  std::byte* data = nullptr;
  std::size_t bytes = 0;
  std::byte* pages = nullptr;
  std::size_t page_bytes = 0;
  bool live = true;
};

class DeviceMemory {
 public:
  static DeviceMemory& instance();

  std::byte* allocate(std::size_t bytes);
  void free(Block& block);
  // The block that begins at or holds the address, freed ones too; null: none.
  Block* find(const void* address);
  std::size_t bytes_in_use() const { return in_use_; }
  int num_blocks() const { return num_live_; }

  // Nests: the device runs between open() and close().
  void open();
  void close();

 private:
  DeviceMemory();
  static void report_leaks();
  void protect(const Block& block) const;

  std::map<std::uintptr_t, Block> blocks_;  // by address
  std::size_t in_use_ = 0;
  int num_live_ = 0;
  int open_ = 0;
};

// The device's turn.
struct DeviceTurn {
  DeviceTurn() { DeviceMemory::instance().open(); }
  ~DeviceTurn() { DeviceMemory::instance().close(); }
  DeviceTurn(const DeviceTurn&) = delete;
  DeviceTurn& operator=(const DeviceTurn&) = delete;
};

class PinnedMemory {
 public:
  static PinnedMemory& instance();
  void* allocate(std::size_t bytes);
  bool free(void* data);  // false: not the beginning of a block
  // Whether [address, address + bytes) is all inside one block (kIn), outside of all (kOut), or neither.
  enum class Where { kOut, kIn, kAcross };
  Where locate(const void* address, std::size_t bytes) const;
  std::size_t bytes_in_use() const { return in_use_; }

 private:
  std::map<std::uintptr_t, std::size_t> blocks_;
  std::size_t in_use_ = 0;
};

}  // namespace simt::runtime
