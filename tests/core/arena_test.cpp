#include "core/arena.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/base/error.h"

namespace cohort {
namespace {

TEST(Arena, BlocksAreAlignedAndDisjoint) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  std::vector<std::pair<std::uintptr_t, std::size_t>> blocks;
  for (std::size_t bytes : {1U, 63U, 64U, 65U, 1000U, 5000U, 0U}) {
    const auto at = reinterpret_cast<std::uintptr_t>(arena.allocate(bytes));
    EXPECT_EQ(at % 64, 0U);
    for (const auto& [other, size] : blocks) EXPECT_TRUE(at + bytes <= other || other + size <= at);
    blocks.emplace_back(at, bytes);
  }
}

TEST(Arena, SameCallsAfterResetGiveSameAddresses) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  const auto round = [&] {
    std::vector<void*> at;
    for (std::size_t bytes : {100U, 900U, 300U, 4096U, 64U}) at.push_back(arena.allocate(bytes));
    arena.recycle(at[1], 900);
    at.push_back(arena.allocate(900));
    return at;
  };
  const std::vector<void*> first = round();
  const std::size_t reserved = arena.reserved_bytes();
  for (int i = 0; i < 3; ++i) {
    arena.reset();
    EXPECT_EQ(round(), first);
  }
  EXPECT_EQ(arena.reserved_bytes(), reserved) << "a warm arena never asks the device again";
}

TEST(Arena, RecyclesOnlyTheSameSize) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  void* a = arena.allocate(128);
  arena.recycle(a, 128);
  EXPECT_NE(arena.allocate(64), a);
  EXPECT_EQ(arena.allocate(100), a) << "100 and 128 round up to the same block";
}

TEST(Arena, CountsUseAndPeak) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  void* a = arena.allocate(100);
  arena.allocate(64);
  EXPECT_EQ(arena.bytes_in_use(), 128U + 64U);
  arena.recycle(a, 100);
  EXPECT_EQ(arena.bytes_in_use(), 64U);
  EXPECT_EQ(arena.peak_bytes(), 192U);
}

TEST(Arena, PoisonShowsStaleReads) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  arena.set_poison(true);
  auto* a = static_cast<float*>(arena.allocate(64));
  EXPECT_TRUE(std::isnan(a[0]));
  a[0] = 1.0F;
  arena.recycle(a, 64);
  EXPECT_TRUE(std::isnan(a[0]));
}

TEST(Arena, AbsurdSizesAreOutOfMemory) {
  Arena arena(MemorySource(CpuStream{}), 1024);
  try {
    arena.allocate(std::size_t{1} << 60);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kMemory);
  }
}

}  // namespace
}  // namespace cohort
