// The fake CUDA runtime and the host code on it: each rule of simt/runtime/runtime.h, and each failing call.
#include "simt/runtime/runtime.h"

#include <gtest/gtest.h>

#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/branch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/devices.h"
#include "kernels/memory.h"
#include "simt/runtime/race_reports.h"

namespace cohort {
namespace {

using kernels::native;

class FakeRuntime : public ::testing::TestWithParam<simt::StreamOrder> {
 protected:
  FakeRuntime() { simt::reset(); }
  ~FakeRuntime() override {
    simt::reset();
    simt::set_order({});
  }
};

std::string name_of_order(const ::testing::TestParamInfo<simt::StreamOrder>& i) {
  return simt::to_string(i.param);
}

// Device memory for one test.
class Buffer {
 public:
  explicit Buffer(std::size_t count)
      : count_(count), data_(static_cast<int*>(kernels::allocate(stream(), count * sizeof(int)))) {}
  ~Buffer() { kernels::deallocate(stream(), data_); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  static CudaStream stream() { return kernels::open_branch(0, 0); }
  operator int*() const { return data_; }  // NOLINT
  std::vector<int> host() const {
    std::vector<int> values(count_);
    kernels::copy_to_host(stream(), values.data(), data_, count_ * sizeof(int));
    return values;
  }
  void set(const std::vector<int>& values) const {
    kernels::copy_to_device(stream(), data_, values.data(), count_ * sizeof(int));
  }

 private:
  std::size_t count_;
  int* data_;
};

void add_one(CudaStream stream, const int* from, int* to) {
  ASSERT_EQ(simt::enqueue(native(stream), "add_one", [=] { *to = *from + 1; }), cudaSuccess);
}

ErrorKind kind_of(const std::function<void()>& f, std::string* message = nullptr) {
  try {
    f();
  } catch (const Error& e) {
    if (message != nullptr) *message = e.what();
    return e.kind();
  }
  ADD_FAILURE() << "nothing thrown";
  return ErrorKind::kInternal;
}

// --- streams ---

class StreamOrders : public FakeRuntime {
 protected:
  StreamOrders() { simt::set_order(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Simt, StreamOrders, ::testing::ValuesIn(simt::all_orders()), name_of_order);

TEST_P(StreamOrders, NothingRunsBeforeItIsWaitedFor) {
  const CudaStream a = kernels::open_branch(0, 0);
  int runs = 0;
  simt::enqueue(native(a), "count", [&] { ++runs; });
  simt::enqueue(native(a), "count", [&] { ++runs; });
  EXPECT_EQ(simt::num_pending(), 2);
  kernels::synchronize(a);
  EXPECT_EQ(runs, 2);
}

TEST_P(StreamOrders, AStreamKeepsItsOrder) {
  const CudaStream a = kernels::open_branch(0, 1);
  std::vector<int> seen;
  for (int i = 0; i < 20; ++i) simt::enqueue(native(a), "push", [&, i] { seen.push_back(i); });
  kernels::synchronize(a);
  ASSERT_EQ(seen.size(), 20U);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
}

TEST_P(StreamOrders, ForkAndJoinOrderBranches) {
  const Buffer x(1), y(2), z(1);
  const CudaStream main = kernels::open_branch(0, 0);
  for (int round = 0; round < 5; ++round) {
    x.set({10 * round});
    for (int k = 1; k <= 2; ++k) {
      const CudaStream branch = kernels::open_branch(0, k);
      kernels::order(main, branch);
      add_one(branch, x, y + k - 1);
      kernels::order(branch, main);
    }
    simt::enqueue(native(main), "sum", [&] { *z = y[0] + y[1]; });
    EXPECT_EQ(z.host(), std::vector<int>{20 * round + 2});
  }
}

// The same without one of the orders: result of the sum over a few rounds.
bool planted_mistake_shows(bool fork, bool join) {
  const Buffer x(1), y(2), z(1);
  const CudaStream main = kernels::open_branch(0, 0);
  bool wrong = false;
  x.set({0});
  y.set({0, 0});
  for (int round = 0; round < 4; ++round) {
    x.set({10 * round});
    for (int k = 1; k <= 2; ++k) {
      const CudaStream branch = kernels::open_branch(0, k);
      if (fork) kernels::order(main, branch);
      add_one(branch, x, y + k - 1);
      if (join) kernels::order(branch, main);
    }
    simt::enqueue(native(main), "sum", [&] { *z = y[0] + y[1]; });
    wrong = z.host() != std::vector<int>{20 * round + 2} || wrong;
  }
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  return wrong;
}

TEST_F(FakeRuntime, AMissingJoinGivesWrongResults) {
  const simt::ExpectedRaces races;
  int shown = 0;
  for (const simt::StreamOrder order : simt::all_orders()) {
    simt::set_order(order);
    const bool wrong = planted_mistake_shows(true, false);
    shown += wrong ? 1 : 0;
    if (order.order == simt::Order::kForward || order.order == simt::Order::kReverse) {
      EXPECT_TRUE(wrong) << simt::to_string(order);
    }
  }
  EXPECT_GE(shown, 4) << "of 6 orders";
  EXPECT_TRUE(races.seen()) << "the race detector misses a missing join";
}

TEST_F(FakeRuntime, AMissingForkGivesWrongResults) {
  const simt::ExpectedRaces races;
  int shown = 0;
  for (const simt::StreamOrder order : simt::all_orders()) {
    simt::set_order(order);
    const bool wrong = planted_mistake_shows(false, true);
    shown += wrong ? 1 : 0;
    EXPECT_TRUE(wrong || order.order != simt::Order::kReverse);
  }
  EXPECT_GE(shown, 2) << "of 6 orders";
  EXPECT_TRUE(races.seen()) << "the race detector misses a missing fork";
}

TEST_F(FakeRuntime, ReadingPinnedMemoryWithoutWaitingIsFound) {
  const Buffer x(1);
  x.set({7});
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(int)), cudaSuccess);
  const auto* value = static_cast<int*>(pinned);
  const CudaStream main = kernels::open_branch(0, 0);
  ASSERT_EQ(cudaMemcpyAsync(pinned, x, sizeof(int), cudaMemcpyDeviceToHost, native(main)), cudaSuccess);
  {
    const simt::ExpectedRaces races;
    EXPECT_EQ(*value, -1) << "the copy has not run: 0xff";
    kernels::synchronize(main);
    EXPECT_TRUE(races.seen());
  }
  EXPECT_EQ(*value, 7);
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
  EXPECT_EQ(cudaFreeHost(pinned), cudaErrorInvalidValue);
}

TEST_F(FakeRuntime, PollingMakesProgress) {
  const CudaStream a = kernels::open_branch(0, 1);
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess) << "never recorded: done";
  int runs = 0, later = 0;
  for (int i = 0; i < 3; ++i) simt::enqueue(native(a), "count", [&] { ++runs; });
  ASSERT_EQ(cudaEventRecord(event, native(a)), cudaSuccess);
  simt::enqueue(native(a), "count", [&] { ++later; });
  int polls = 0;
  while (cudaEventQuery(event) == cudaErrorNotReady) ++polls;
  EXPECT_EQ(polls, 3);
  EXPECT_EQ(runs, 3);
  EXPECT_EQ(simt::num_pending(), 1) << "what comes after the event is not waited for";
  kernels::synchronize(a);
  EXPECT_EQ(later, 1);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaErrorInvalidResourceHandle);
}

TEST_F(FakeRuntime, ElapsedTimeNeedsTwoReachedEventsWithTiming) {
  const CudaStream stream = kernels::open_branch(0, 0);
  const Buffer buffer(2);
  cudaEvent_t begin = nullptr, end = nullptr, untimed = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&begin, cudaEventDefault), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&end, cudaEventDefault), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming), cudaSuccess);
  float milliseconds = -1;
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaErrorInvalidResourceHandle)
      << "not recorded";
  ASSERT_EQ(cudaEventRecord(begin, native(stream)), cudaSuccess);
  add_one(stream, buffer, buffer + 1);
  ASSERT_EQ(cudaEventRecord(end, native(stream)), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(untimed, native(stream)), cudaSuccess);
  ASSERT_EQ(cudaEventSynchronize(end), cudaSuccess);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, end), cudaSuccess);
  EXPECT_GT(milliseconds, 0);
  EXPECT_EQ(cudaEventElapsedTime(&milliseconds, begin, untimed), cudaErrorInvalidResourceHandle);
  for (const cudaEvent_t event : {begin, end, untimed}) EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(FakeRuntime, ErrorsOfAKernelReachTheNextWait) {
  const CudaStream a = kernels::open_branch(0, 0);
  int runs = 0;
  simt::enqueue(native(a), "throws", [] { throw std::runtime_error("lane 3 diverged"); });
  simt::enqueue(native(a), "count", [&] { ++runs; });
  EXPECT_THROW(kernels::synchronize(a), std::runtime_error);
  EXPECT_EQ(runs, 0) << "what comes after the error is dropped";
  kernels::synchronize(a);
  simt::enqueue(native(a), "count", [&] { ++runs; });
  kernels::synchronize(a);
  EXPECT_EQ(runs, 1);
}

TEST_F(FakeRuntime, TheNullStreamRunsNow) {
  int runs = 0;
  EXPECT_EQ(simt::enqueue(nullptr, "count", [&] { ++runs; }), cudaSuccess);
  EXPECT_EQ(runs, 1);
  EXPECT_THROW(simt::enqueue(nullptr, "throws", [] { throw std::runtime_error("x"); }), std::runtime_error);
}

// --- memory ---

TEST_F(FakeRuntime, BlocksAreAlignedAndFilled) {
  for (const std::size_t count : {1U, 3U, 64U, 1000U, 5000U}) {
    const Buffer block(count);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(static_cast<int*>(block)) % 256, 0U);
    EXPECT_EQ(block.host(), std::vector<int>(count, -1)) << "fresh memory is 0xff";
  }
}

TEST_F(FakeRuntime, CopiesGoBothWaysInPieces) {
  std::vector<int> values(1'000'003);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<int>(i * 2654435761U);
  const Buffer block(values.size());
  for (const simt::StreamOrder order : simt::all_orders()) {
    simt::set_order(order);
    std::vector<int> source = values;
    block.set(source);
    source.assign(source.size(), 0);  // may be reused at once
    EXPECT_EQ(block.host(), values);
    values.front() += 1;
  }
  kernels::fill_zero(Buffer::stream(), block, 8);
  EXPECT_EQ(block.host()[1], 0);
  EXPECT_EQ(block.host()[2], values[2]);
  EXPECT_LE(simt::calls("cudaMallocHost"), 1) << "the staging memory of the process is made once";
}

#if !defined(__SANITIZE_THREAD__)  // no death tests among its fibers
TEST(FakeRuntimeDeathTest, HostCodeCannotTouchDeviceMemory) {
  EXPECT_DEATH(
      {
        const Buffer block(4);
        volatile int x = block[1];
        (void)x;
      },
      "host code touched device memory|SEGV");
}

TEST(FakeRuntimeDeathTest, KernelsCannotLeaveTheirBlock) {
  EXPECT_DEATH(
      {
        const Buffer block(64);
        simt::enqueue(native(Buffer::stream()), "overrun", [&] { block[64] = 1; });
        kernels::synchronize(Buffer::stream());
      },
      "out of bounds|use-after-poison|SEGV");
}

TEST(FakeRuntimeDeathTest, KernelsCannotUseFreedMemory) {
  EXPECT_DEATH(
      {
        const CudaStream main = kernels::open_branch(0, 0);
        auto* data = static_cast<int*>(kernels::allocate(main, 64));
        kernels::deallocate(main, data);
        simt::enqueue(native(main), "late", [=] { *data = 1; });
        kernels::synchronize(main);
      },
      "the block was freed|SEGV");
}

TEST(FakeRuntimeDeathTest, LeaksEndTheProcess) {
  EXPECT_EXIT(
      {
        kernels::allocate(kernels::open_branch(0, 0), 12345);
        std::exit(0);
      },
      ::testing::ExitedWithCode(1), "1 blocks leaked, 12345 bytes");
}
#endif

TEST_F(FakeRuntime, WrongCopiesAreErrors) {
  const Buffer block(4);
  int host[4] = {};
  const cudaStream_t main = native(Buffer::stream());
  const auto copy = [&](void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    return cudaMemcpyAsync(to, from, bytes, kind, main);
  };
  EXPECT_EQ(copy(host, host, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_NE(simt::last_violation().find("is not device memory"), std::string::npos);
  EXPECT_EQ(copy(block, block, 4, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(copy(block, host, 4, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(copy(block + 1, host, 16, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_NE(simt::last_violation().find("16 bytes from byte 4 of a block of 16"), std::string::npos);
  EXPECT_EQ(copy(block, host, 4, cudaMemcpyDefault), cudaErrorInvalidMemcpyDirection);
  EXPECT_EQ(cudaMemsetAsync(host, 0, 4, main), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemsetAsync(block, 0, 17, main), cudaErrorInvalidValue);
  EXPECT_EQ(simt::num_pending(), 0);
}

TEST_F(FakeRuntime, WrongFreesAreErrors) {
  void* data = nullptr;
  ASSERT_EQ(cudaMalloc(&data, 100), cudaSuccess);
  const int blocks = simt::num_device_blocks();
  EXPECT_EQ(cudaFree(static_cast<char*>(data) + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(data), cudaSuccess);
  EXPECT_EQ(cudaFree(data), cudaErrorInvalidValue);
  EXPECT_EQ(simt::last_violation(), "cudaFree of memory that was freed before");
  EXPECT_EQ(cudaFree(nullptr), cudaSuccess);
  EXPECT_EQ(simt::num_device_blocks(), blocks - 1);
  EXPECT_FALSE(simt::is_device_pointer(data));
}

TEST_F(FakeRuntime, FreeWaitsForTheDevice) {
  const CudaStream main = kernels::open_branch(0, 1);
  auto* data = static_cast<int*>(kernels::allocate(main, sizeof(int)));
  simt::enqueue(native(main), "write", [=] { *data = 1; });
  kernels::deallocate(main, data);
  EXPECT_EQ(simt::num_pending(), 0);
}

// --- what failing calls become ---

TEST_F(FakeRuntime, MemoryExhaustedNamesTheSizes) {
  simt::set_devices({.memory = (std::size_t{1} << 20) + simt::device_bytes()});
  std::string message;
  const auto ask = [](std::size_t bytes) {
    return [=] { kernels::allocate(kernels::open_branch(0, 0), bytes); };
  };
  EXPECT_EQ(kind_of(ask(std::size_t{2} << 20), &message), ErrorKind::kMemory);
  EXPECT_NE(message.find("out of device memory: 2097152 bytes asked for, 1048576 free of "),
            std::string::npos)
      << message;
  EXPECT_EQ(kind_of(ask(std::size_t{1} << 60)), ErrorKind::kMemory);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "the status is forgotten";
  const Buffer fits(1000);
  EXPECT_EQ(fits.host().size(), 1000U);
}

TEST_F(FakeRuntime, AFailureIsThrownWithItsCallAndStatus) {
  const Buffer block(1);
  const CudaStream main = Buffer::stream();
  const auto expect = [&](const char* function, cudaError_t error, const char* name,
                          const std::function<void()>& f) {
    simt::reset();
    simt::fail_next(function, error);
    std::string message;
    EXPECT_EQ(kind_of(f, &message), ErrorKind::kDevice) << function;
    EXPECT_NE(message.find(std::string(function) + " failed: " + name), std::string::npos) << message;
  };
  int host = 0;
  const auto upload = [&] { kernels::copy_to_device(main, block, &host, sizeof host); };
  const auto download = [&] { kernels::copy_to_host(main, &host, block, sizeof host); };
  expect("cudaMalloc", cudaErrorIllegalAddress, "cudaErrorIllegalAddress", [] { const Buffer b(1); });
  expect("cudaMemcpyAsync", cudaErrorLaunchFailure, "cudaErrorLaunchFailure", upload);
  expect("cudaMemcpyAsync", cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", download);
  expect("cudaEventSynchronize", cudaErrorIllegalAddress, "cudaErrorIllegalAddress", download);
  expect("cudaEventRecord", cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", upload);
  expect("cudaMemsetAsync", cudaErrorInvalidValue, "cudaErrorInvalidValue",
         [&] { kernels::fill_zero(main, block, 4); });
  expect("cudaStreamSynchronize", cudaErrorLaunchTimeout, "cudaErrorLaunchTimeout",
         [&] { kernels::synchronize(main); });
  expect("cudaStreamWaitEvent", cudaErrorInvalidValue, "cudaErrorInvalidValue",
         [&] { kernels::order(main, kernels::open_branch(0, 1)); });
  expect("cudaStreamBeginCapture", cudaErrorInvalidValue, "cudaErrorInvalidValue",
         [&] { kernels::begin_capture(main); });
  expect("cudaGraphInstantiate", cudaErrorNotSupported, "cudaErrorNotSupported", [&] {
    kernels::begin_capture(main);
    kernels::end_capture(main);
  });
}

TEST_F(FakeRuntime, ALostDeviceStaysLost) {
  const Buffer block(1);
  simt::fail_next("cudaStreamSynchronize", cudaErrorIllegalAddress, 2);
  kernels::synchronize(Buffer::stream());
  EXPECT_EQ(kind_of([&] { kernels::synchronize(Buffer::stream()); }), ErrorKind::kDevice);
  EXPECT_EQ(kind_of([&] { kernels::fill_zero(Buffer::stream(), block, 4); }), ErrorKind::kDevice);
  EXPECT_EQ(simt::enqueue(native(Buffer::stream()), "k", [] {}), cudaErrorIllegalAddress);
  simt::reset();
}

TEST_F(FakeRuntime, EveryErrorOfTheDeviceCountMeansNoDevice) {
  const auto query = [](cudaError_t status, int driver) {
    simt::set_devices({.count = 3, .count_status = status, .driver_version = driver});
    return kernels::query_cuda_devices();
  };
  for (const cudaError_t status :
       {cudaErrorInsufficientDriver, cudaErrorNoDevice, cudaErrorInitializationError, cudaErrorStubLibrary,
        cudaErrorSystemDriverMismatch}) {
    const kernels::CudaDevices found = query(status, 13000);
    EXPECT_TRUE(found.devices.empty());
    EXPECT_NE(found.problem.find(cudaGetErrorName(status)), std::string::npos) << found.problem;
    EXPECT_EQ(kind_of([] { kernels::check_cuda_device(0); }), ErrorKind::kDevice);
  }
  EXPECT_NE(query(cudaErrorInsufficientDriver, 0).problem.find("no NVIDIA driver"), std::string::npos);
  EXPECT_NE(query(cudaErrorInsufficientDriver, 12020).problem.find("the driver serves CUDA 12.2"),
            std::string::npos);
  simt::set_devices({.count = 0});
  EXPECT_EQ(kernels::query_cuda_devices().problem, "the driver finds no device");
}

TEST_F(FakeRuntime, DevicesAreDescribed) {
  simt::set_devices({.count = 2, .memory = 1000});
  const kernels::CudaDevices found = kernels::query_cuda_devices();
  ASSERT_EQ(found.devices.size(), 2U);
  EXPECT_EQ(found.devices[1].name, "Emulated device 1");
  EXPECT_EQ(found.devices[1].compute_major, 9);
  EXPECT_EQ(found.devices[1].num_sms, 132);
  EXPECT_EQ(found.devices[1].memory_bytes, 1000U);
  EXPECT_EQ(found.runtime_version, CUDART_VERSION);
  EXPECT_TRUE(found.problem.empty());
  kernels::check_cuda_device(1);
  std::string message;
  EXPECT_EQ(kind_of([] { kernels::check_cuda_device(2); }, &message), ErrorKind::kDevice);
  EXPECT_EQ(message, "there is no device cuda:2: 2 found, counted from 0");
  simt::fail_next("cudaGetDeviceProperties", cudaErrorInitializationError);
  EXPECT_TRUE(kernels::query_cuda_devices().devices.empty());
}

TEST_F(FakeRuntime, OneProcessUsesOneDevice) {
  simt::set_devices({.count = 2});
  kernels::open_branch(0, 0);
  EXPECT_EQ(kind_of([] { kernels::open_branch(1, 0); }), ErrorKind::kDevice);
}

TEST_F(FakeRuntime, BranchesKeepTheirStreams) {
  const CudaStream two = kernels::open_branch(0, 2);
  EXPECT_EQ(kernels::open_branch(0, 2).handle, two.handle);
  EXPECT_NE(kernels::open_branch(0, 1).handle, two.handle);
  EXPECT_EQ(kind_of([&] { kernels::order({two.handle, 1}, two); }), ErrorKind::kInternal);
}

}  // namespace
}  // namespace cohort
