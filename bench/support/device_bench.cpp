#include "bench/support/device_bench.h"

#include <random>

#include "bench/support/device_clock.h"
#include "kernels/branch.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/devices.h"
#include "kernels/memory.h"
#include "kernels/readback.h"

namespace cohort::bench {
namespace {

// An H100's and an H200's L2 holds 50 MB.
constexpr std::size_t kColdBytes = kEmulated ? 0 : std::size_t{128} << 20;
constexpr std::size_t kMaxSets = 2048;
constexpr int kRepeats = kEmulated ? 1 : 30;
constexpr double kEmulatedBytes = 1.5e6, kEmulatedFlops = 2e7;  // beyond, a call takes seconds
constexpr double kCpuBytes = 1e9;
constexpr std::size_t kChunk = std::size_t{16} << 20;

template <class F>
void on_stream_of(Mode mode, F&& f) {
  if constexpr (kHasDevice) {
    if (mode != Mode::kCpu) return f(cuda_stream());
  }
  f(cpu_stream());
}

double percentile(const std::vector<double>& sorted, double q) {
  return sorted[std::min(sorted.size() - 1,
                         static_cast<std::size_t>(q * static_cast<double>(sorted.size())))];
}

benchmark::internal::Benchmark* register_mode(const std::string& name, const Body& body,
                                              const Arguments& arguments, Mode mode) {
  benchmark::internal::Benchmark* const bench = benchmark::RegisterBenchmark(
      (name + "/" + name_of(mode)).c_str(), [body, mode](benchmark::State& state) { body(state, mode); });
  bench->Unit(benchmark::kMicrosecond);
  if (arguments) arguments(bench);
  return bench;
}

}  // namespace

const char* name_of(Mode mode) {
  switch (mode) {
    case Mode::kCpu:
      return "cpu";
    case Mode::kCold:
      return "cuda:cold";
    case Mode::kHot:
      return "cuda:hot";
    case Mode::kCalls:
      break;
  }
  return "cuda:calls";
}

Memory::~Memory() {
  on_stream_of(mode_, [&](auto stream) {
    for (void* const chunk : chunks_) kernels::deallocate(stream, chunk);
    for (void* const block : pinned_) kernels::deallocate_pinned(stream, block);
  });
}

void* Memory::allocate(std::size_t bytes) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256;
  if (rounded > left_) {
    left_ = std::max(kChunk, rounded);
    on_stream_of(mode_, [&](auto stream) { chunks_.push_back(kernels::allocate(stream, left_)); });
    next_ = static_cast<std::byte*>(chunks_.back());
  }
  left_ -= rounded;
  bytes_ += bytes;
  return std::exchange(next_, next_ + rounded);
}

void Memory::write(void* to, const void* from, std::size_t bytes) {
  on_stream_of(mode_, [&](auto stream) { kernels::copy_to_device(stream, to, from, bytes); });
}

void* Memory::pinned(std::size_t bytes) {
  on_stream_of(mode_, [&](auto stream) { pinned_.push_back(kernels::allocate_pinned(stream, bytes)); });
  return pinned_.back();
}

const std::vector<float>& Memory::random_numbers() {
  static const std::vector<float> numbers = [] {
    std::vector<float> values((std::size_t{1} << 20) + 7);
    std::minstd_rand random(1);
    std::normal_distribution<float> normal;
    for (float& v : values) v = normal(random);
    return values;
  }();
  return numbers;
}

CpuStream cpu_stream() {
  static ThreadPool pool;
  return {&pool};
}

CudaStream cuda_stream() {
  if constexpr (kHasDevice) return kernels::open_branch(0, 0);
  return {};
}

std::string reason_to_skip(Mode mode, const Work& work) {
  if (mode == Mode::kCpu) return work.bytes > kCpuBytes ? "skipped: a size for GPUs" : "";
  if constexpr (kHasDevice) {
    static const std::string problem = kernels::query_cuda_devices().problem;
    if (!problem.empty()) return "skipped: no device (" + problem + ")";
  }
  if (!work.capturable && (mode == Mode::kCold || mode == Mode::kHot)) {
    return "skipped: never part of a graph";
  }
  if (kEmulated && (work.bytes > kEmulatedBytes || work.flops > kEmulatedFlops)) {
    return "skipped: too large for the emulated device";
  }
  return "";
}

bool wants_another_set(Mode mode, std::size_t bytes, std::size_t sets) {
  if (mode != Mode::kCold) return false;
  return sets < 2 || (bytes < kColdBytes && sets < kMaxSets);
}

int num_calls(const Work& work, std::size_t sets) {
  if (kEmulated) return static_cast<int>(sets);
  const double wanted = std::clamp(4e9 / std::max(work.bytes, 1.0), 20.0, 100.0);
  const int each = static_cast<int>(sets);
  return (std::max(static_cast<int>(wanted), each) + each - 1) / each * each;
}

void report_rates(benchmark::State& state, Mode mode, const Work& work, double seconds) {
  if (work.bytes > 0) {
    state.counters["GB/s"] = work.bytes / seconds / 1e9;
    state.counters["of_copy"] = work.bytes / seconds / copy_bytes_per_second(mode);
  }
  if (work.flops > 0) state.counters["GFLOP/s"] = work.flops / seconds / 1e9;
}

void measure_on_device(benchmark::State& state, Mode mode, const Work& work, int calls,
                       const std::function<void()>& enqueue) {
  if constexpr (kHasDevice) {
    const CudaStream stream = cuda_stream();
    enqueue();  // loads modules, makes plans
    kernels::synchronize(stream);
    kernels::CapturedStep graph;
    if (mode != Mode::kCalls) {
      kernels::begin_capture(stream);
      enqueue();
      graph = kernels::end_capture(stream);
      state.counters["nodes"] = static_cast<double>(graph.num_nodes()) / calls;
    }
    const auto run = [&] { graph.graph != nullptr ? kernels::launch(stream, graph) : enqueue(); };
    if (!kEmulated) run();
    std::vector<double> times, host_times;
    for (auto _ : state) {
      const DeviceClock clock(stream);
      const double enqueued = clock.host_seconds(run);
      times.push_back(clock.seconds() / calls);
      host_times.push_back(enqueued / calls);
      state.SetIterationTime(times.back());
    }
    kernels::release(stream, graph);
    std::sort(times.begin(), times.end());
    std::sort(host_times.begin(), host_times.end());
    const double median = percentile(times, 0.5);
    state.counters["median_us"] = 1e6 * median;
    state.counters["p20_us"] = 1e6 * percentile(times, 0.2);
    state.counters["p80_us"] = 1e6 * percentile(times, 0.8);
    if (mode == Mode::kCalls) state.counters["host_us"] = 1e6 * percentile(host_times, 0.5);
    if (work.target_us > 0 && mode != Mode::kCalls) state.counters["target_us"] = work.target_us;
    report_rates(state, mode, work, median);
  }
}

bool add(const std::string& name, const Body& body, const Arguments& arguments) {
  register_mode(name, body, arguments, Mode::kCpu)->UseRealTime();
  return add_on_device(name, body, arguments);
}

bool add_on_device(const std::string& name, const Body& body, const Arguments& arguments) {
  for (const Mode mode : {Mode::kCold, Mode::kHot, Mode::kCalls}) {
    if (kHasDevice) register_mode(name, body, arguments, mode)->UseManualTime()->Iterations(kRepeats);
  }
  return true;
}

}  // namespace cohort::bench
