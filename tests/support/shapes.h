// The awkward sizes that every op is tested with, and the thread counts whose results must be the same bits.
#pragma once

#include <gtest/gtest.h>

#include <array>

#include "kernels/base/stream.h"
#include "kernels/cpu/thread_pool.h"

namespace cohort::test {

// Every residue of the vector widths and their multiples.
inline constexpr std::array kLengths = {1,  2,  3,  4,  5,  7,   8,   9,   15,  16,  17,  31,
                                        32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 1000};
inline constexpr std::array kBatches = {1, 2, 3, 7, 33, 128};
inline constexpr std::array kClassCounts = {2, 3, 10, 31, 33, 100, 1000};
inline constexpr std::array kSpatial = {1, 2, 3, 7, 8, 32, 33};
inline constexpr std::array kThreadCounts = {1, 2, 3};

// f(CpuStream) on 1, 2 and 3 threads.
template <class F>
void for_each_thread_count(F&& f) {
  for (const int threads : kThreadCounts) {
    SCOPED_TRACE(::testing::Message() << threads << " threads");
    ThreadPool pool(threads);
    f(CpuStream{&pool});
  }
}

}  // namespace cohort::test
