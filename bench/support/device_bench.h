// One bench of a kernel, measured on the CPU and on a GPU from one source:
//
//   void add(benchmark::State& state, bench::Mode mode) {
//     const std::int64_t count = state.range(0);
//     bench::measure(state, mode, {.bytes = 12.0 * count}, [&](auto, bench::Memory& memory) {
//       AddArgs args{.count = count, .a = memory.normals<float>(count), ..., .y =
//       memory.empty<float>(count)}; return [args](auto stream) { kernels::add(stream, args); };
//     });
//   }
//   const bool registered = bench::add("add", &add, [](auto* b) { b->Arg(1 << 20); });
//
// makes add/cpu and, in builds with CUDA,
//   add/cuda:cold   time of one call inside a captured graph, over sets of buffers that together exceed the
//   L2 add/cuda:hot    the same over one set add/cuda:calls  time of one call when the host enqueues each,
//   with the host's share as host_us
// The median, p20 and p80 of 30 repeats, by device events around 100 calls, 20 where a call is large. GB/s
// come from the byte formula of the kernel's header (`bytes`), of_copy is their share of what a large copy
// reaches on the same device in the same run, target_us is the time we aim at. A bench on the emulated device
// (tests/simt) shows that it runs; its figures mean nothing.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/error.h"
#include "kernels/base/stream.h"

namespace cohort::bench {

inline constexpr bool kHasDevice = COHORT_HAS_CUDA != 0;
#if defined(COHORT_EMULATED_DEVICE)
inline constexpr bool kEmulated = true;
#else
inline constexpr bool kEmulated = false;
#endif

// A batch, or a number of elements. The emulated device gets a 64th of it.
constexpr std::int64_t scaled(std::int64_t count) {
  return kEmulated ? std::max<std::int64_t>(1, count / 64) : count;
}

enum class Mode { kCpu, kCold, kHot, kCalls };
const char* name_of(Mode mode);

// What one call does, by the formulas of its header.
struct Work {
  double bytes = 0;
  double flops = 0;
  double target_us = 0;    // inside a graph on a GPU; 0: none
  bool capturable = true;  // false: only ever called between steps
};

// Buffers of one bench on the device of its mode; they live as long as it.
class Memory {
 public:
  explicit Memory(Mode mode) : mode_(mode) {}
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Never zeros: they can run faster than real data.
  template <class T>
  T* normals(std::int64_t count, double scale = 1) {
    return tiled(count, [&](double random) { return static_cast<T>(static_cast<float>(scale * random)); });
  }
  // In [0, below).
  template <class T>
  T* integers(std::int64_t count, std::int64_t below) {
    return tiled(count, [&](double random) {
      return static_cast<T>(static_cast<std::int64_t>(std::abs(random) * 1e6) % below);
    });
  }
  template <class T>
  T* filled(std::int64_t count, double value) {
    return tiled(count, [&](double) { return static_cast<T>(static_cast<float>(value)); });
  }
  template <class T>
  T* copy_of(const std::vector<T>& values) {
    T* const data = empty<T>(static_cast<std::int64_t>(values.size()));
    write(data, values.data(), values.size() * sizeof(T));
    return data;
  }
  // For outputs.
  template <class T>
  T* empty(std::int64_t count) {
    return static_cast<T*>(allocate(static_cast<std::size_t>(count) * sizeof(T)));
  }
  Workspace workspace(std::size_t bytes) { return {static_cast<std::byte*>(allocate(bytes)), bytes}; }
  // Memory of the host that the device writes too (kernels/readback.h).
  void* pinned(std::size_t bytes);

  std::size_t bytes() const { return bytes_; }  // handed out so far

 private:
  static const std::vector<float>& random_numbers();

  template <class F>
  auto tiled(std::int64_t count, F&& value) {
    using T = std::invoke_result_t<F, double>;
    const std::vector<float>& random = random_numbers();
    const auto size = static_cast<std::size_t>(count);
    std::vector<T> tile(std::min(size, random.size()));
    for (std::size_t i = 0; i < tile.size(); ++i) tile[i] = value(static_cast<double>(random[i]));
    T* const data = empty<T>(count);
    for (std::size_t at = 0; at < size; at += tile.size()) {
      write(data + at, tile.data(), std::min(tile.size(), size - at) * sizeof(T));
    }
    return data;
  }

  void* allocate(std::size_t bytes);
  void write(void* to, const void* from, std::size_t bytes);

  Mode mode_;
  std::size_t bytes_ = 0, left_ = 0;
  std::byte* next_ = nullptr;
  std::vector<void*> chunks_, pinned_;
};

CpuStream cpu_stream();
CudaStream cuda_stream();
// Why a mode cannot be measured here, as the bench says it: "skipped: ..."; empty: it can.
std::string reason_to_skip(Mode mode, const Work& work);
bool wants_another_set(Mode mode, std::size_t bytes, std::size_t sets);
// Calls per repeat, at least one of each set: a hundred, or fewer large ones, but twenty.
int num_calls(const Work& work, std::size_t sets);
void report_rates(benchmark::State& state, Mode mode, const Work& work, double seconds);
// Times `enqueue`, which makes `calls` calls.
void measure_on_device(benchmark::State& state, Mode mode, const Work& work, int calls,
                       const std::function<void()>& enqueue);

// make_call(stream, memory) fills one set of buffers and returns call(stream).
template <class MakeCall>
void measure(benchmark::State& state, Mode mode, const Work& work, MakeCall&& make_call) try {
  if (const std::string reason = reason_to_skip(mode, work); !reason.empty()) {
    return state.SkipWithError(reason.c_str());
  }
  Memory memory(mode);
  if (mode == Mode::kCpu) {
    const CpuStream stream = cpu_stream();
    const auto call = make_call(stream, memory);
    call(stream);  // page faults and lazy initialisation
    const auto before = std::chrono::steady_clock::now();
    for (auto _ : state) {
      call(stream);
      benchmark::ClobberMemory();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - before;
    return report_rates(state, mode, work, took.count() / static_cast<double>(state.iterations()));
  }
  if constexpr (kHasDevice) {
    const CudaStream stream = cuda_stream();
    std::vector<decltype(make_call(stream, memory))> sets;
    do {
      sets.push_back(make_call(stream, memory));
    } while (wants_another_set(mode, memory.bytes(), sets.size()));
    const int calls = num_calls(work, sets.size());
    measure_on_device(state, mode, work, calls, [&] {
      for (int i = 0; i < calls; ++i) sets[static_cast<std::size_t>(i) % sets.size()](stream);
    });
  }
} catch (const Error& error) {
  state.SkipWithError((std::string("failed: ") + error.what()).c_str());
}

// Registers `body` for every mode, or for those of a GPU. `arguments` may set ranges and names.
using Body = std::function<void(benchmark::State&, Mode)>;
using Arguments = std::function<void(benchmark::internal::Benchmark*)>;
bool add(const std::string& name, const Body& body, const Arguments& arguments = {});
bool add_on_device(const std::string& name, const Body& body, const Arguments& arguments = {});

}  // namespace cohort::bench
