// One small kernel for every intrinsic that kernels may use. The same file is compiled for the emulator and
// by nvcc; the test compares both with CUDA's documented semantics, and can write the outputs down for
// comparison with each other.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simt::test {

struct ConformanceOutput {
  std::string name;
  std::vector<std::uint64_t> words;  // thread by thread
};

inline constexpr int kConformanceThreads = 64;
inline constexpr unsigned kGridBlocks = 5;
inline constexpr int kGridRounds = 3;

std::vector<ConformanceOutput> run_conformance();

// The value that thread t brings to a case; different in all its bytes.
inline constexpr std::uint64_t input_word(int t) {
  std::uint64_t z = (static_cast<std::uint64_t>(t) + 1) * 0x9E3779B97F4A7C15U;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  return z ^ (z >> 27);
}

}  // namespace simt::test
