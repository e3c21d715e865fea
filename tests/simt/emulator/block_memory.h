// Shared memory of the blocks that run: variables between red zones, filled with 0xFF, inside the device's
// limits.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace simt::detail {

class BlockMemory {
 public:
  static constexpr std::size_t kStaticLimit = 48 * 1024;
  static constexpr std::size_t kTotalLimit = 163 * 1024;  // of a block on sm_80; sm_90 has 227 KiB
  static constexpr int kMaxVariables = 64;

  BlockMemory();

  // What one block has.
  struct Block {
    struct Variable {
      const void* key;
      std::size_t offset, size;
      const char* name;
    };
    std::size_t static_bytes = 0;
    std::array<Variable, kMaxVariables> variables{};
    int num_variables = 0;
  };

  void begin_launch(std::size_t dynamic_bytes);
  // Blocks begin anew where the launch began, when none is running; the race detector needs every block of a
  // launch elsewhere.
  void begin_blocks();
  void end_block(Block& block);
  // The memory of `key`; null with `error` set when a limit is passed. key null: the dynamic part.
  void* variable(Block& block, const void* key, std::size_t size, std::size_t alignment, const char* name,
                 const char** error);
  void* dynamic(Block& block, const char** error);
  // The variable whose red zones were written to; null: none.
  const char* damaged(const Block& block) const;

 private:
  void* place(Block& block, const void* key, std::size_t size, std::size_t alignment, const char* name,
              const char** error);

  unsigned char* base_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t end_ = 0;
  std::size_t dynamic_bytes_ = 0;
};

}  // namespace simt::detail
