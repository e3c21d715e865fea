// Capture and replay on the fake CUDA runtime: what may be in a captured step, what may not, and that a
// replay does what the eager run did.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "kernels/branch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/memory.h"
#include "simt/runtime/race_reports.h"
#include "simt/runtime/runtime.h"

namespace cohort {
namespace {

using kernels::native;

CudaStream branch(int index) {
  return kernels::open_branch(0, index);
}

class Capture : public ::testing::Test {
 protected:
  static constexpr int kValues = 8;
  Capture() {
    simt::reset();
    data_ = static_cast<int*>(kernels::allocate(branch(0), kValues * sizeof(int)));
    set(std::vector<int>(kValues, 0));
  }
  ~Capture() override {
    simt::reset();
    simt::set_order({});
    kernels::deallocate(branch(0), data_);
  }

  void set(const std::vector<int>& values) {
    kernels::copy_to_device(branch(0), data_, values.data(), values.size() * sizeof(int));
  }
  std::vector<int> get() {
    std::vector<int> values(kValues);
    kernels::copy_to_host(branch(0), values.data(), data_, kValues * sizeof(int));
    return values;
  }
  // data[to] = 3 data[a] + data[b] + 1
  void mix(CudaStream stream, int a, int b, int to, const char* name = "mix") {
    int* const d = data_;
    const cudaError_t status = simt::enqueue(native(stream), name, [=] { d[to] = 3 * d[a] + d[b] + 1; });
    kernels::check_cuda(status, "launch");
  }

  // Fork, two branches of two kernels, join, one kernel: 0 -> 1,3 | 2,4 -> 5, and 0 = 5 at the end.
  void step(bool fork = true, bool join = true) {
    mix(branch(0), 0, 5, 0, "begin");
    for (int k = 1; k <= 2; ++k) {
      if (fork) kernels::order(branch(0), branch(k));
      mix(branch(k), 0, k, k, "forward");
      mix(branch(k), k, 0, k + 2, "backward");
    }
    for (int k = 1; join && k <= 2; ++k) kernels::order(branch(k), branch(0));
    mix(branch(0), 3, 4, 5, "update");
  }

  // begin_capture, f, and what end_capture or f throws; empty: nothing.
  std::string error_in_capture(const std::function<void()>& f, ErrorKind* kind = nullptr) {
    kernels::begin_capture(branch(0));
    try {
      f();
      kernels::release(branch(0), kernels::end_capture(branch(0)));
    } catch (const Error& e) {
      if (kind != nullptr) *kind = e.kind();
      kernels::abort_capture(branch(0));
      return e.what();
    }
    return "";
  }

  int* data_ = nullptr;
};

class CaptureOrders : public Capture, public ::testing::WithParamInterface<simt::StreamOrder> {
 protected:
  CaptureOrders() { simt::set_order(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Simt, CaptureOrders, ::testing::ValuesIn(simt::all_orders()),
                         [](auto& i) { return simt::to_string(i.param); });

TEST_P(CaptureOrders, ReplayEqualsEagerRuns) {
  std::vector<std::vector<int>> eager;
  for (int i = 0; i < 5; ++i) {
    step();
    eager.push_back(get());
  }
  set(std::vector<int>(kValues, 0));
  kernels::begin_capture(branch(0));
  step();
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  EXPECT_EQ(get(), std::vector<int>(kValues, 0)) << "recording runs nothing";
  for (int i = 0; i < 5; ++i) {
    kernels::launch(branch(0), captured);
    EXPECT_EQ(get(), eager[static_cast<std::size_t>(i)]) << "replay " << i;
  }
  kernels::release(branch(0), captured);
}

TEST_P(CaptureOrders, ReplaysQueueUp) {
  for (int i = 0; i < 4; ++i) step();
  const std::vector<int> eager = get();
  set(std::vector<int>(kValues, 0));
  kernels::begin_capture(branch(0));
  step();
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  for (int i = 0; i < 4; ++i) kernels::launch(branch(0), captured);
  kernels::release(branch(0), captured);  // in flight: it runs to its end
  EXPECT_EQ(get(), eager);
}

TEST_F(Capture, ABranchThatIsNotForkedIsNotInTheGraph) {
  kernels::synchronize(branch(0));
  kernels::begin_capture(branch(0));
  mix(branch(0), 0, 0, 0);
  mix(branch(1), 0, 0, 1);  // enqueued at once: nothing made it part of the capture
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  EXPECT_EQ(simt::count_nodes(static_cast<cudaGraphExec_t>(captured.graph)),
            (simt::NodeCounts{.kernels = 1}));
  EXPECT_EQ(simt::num_pending(), 1);
  kernels::synchronize(branch(1));
  EXPECT_EQ(get()[1], 1);
  kernels::release(branch(0), captured);
}

TEST_F(Capture, ARaceInsideAGraphIsFound) {
  kernels::begin_capture(branch(0));
  for (int k = 1; k <= 2; ++k) kernels::order(branch(0), branch(k));
  mix(branch(1), 0, 0, 1, "write");
  mix(branch(2), 1, 1, 2, "read");  // of what the other branch writes
  for (int k = 1; k <= 2; ++k) kernels::order(branch(k), branch(0));
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  const simt::ExpectedRaces races;
  bool early = false, late = false;
  for (const simt::StreamOrder order : simt::all_orders()) {
    simt::set_order(order);
    set(std::vector<int>(kValues, 0));
    kernels::launch(branch(0), captured);
    const std::vector<int> values = get();
    (values[2] == 5 ? late : early) = true;
  }
  EXPECT_TRUE(early && late) << "the orders make no difference";
  EXPECT_TRUE(races.seen());
  kernels::release(branch(0), captured);
}

TEST_F(Capture, NodesAreCounted) {
  kernels::begin_capture(branch(0));
  kernels::fill_zero(branch(0), data_, 4);
  step();
  ASSERT_EQ(cudaMemcpyAsync(data_, data_ + 1, 4, cudaMemcpyDeviceToDevice, native(branch(0))), cudaSuccess);
  cudaGraph_t graph = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(native(branch(0)), &graph), cudaSuccess);
  EXPECT_EQ(simt::count_nodes(graph), (simt::NodeCounts{.kernels = 6, .memcpys = 1, .memsets = 1}));
  std::size_t count = 0;
  ASSERT_EQ(cudaGraphGetNodes(graph, nullptr, &count), cudaSuccess);
  ASSERT_EQ(count, 8U);
  std::vector<cudaGraphNode_t> nodes(count);
  ASSERT_EQ(cudaGraphGetNodes(graph, nodes.data(), &count), cudaSuccess);
  cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
  ASSERT_EQ(cudaGraphNodeGetType(nodes.front(), &type), cudaSuccess);
  EXPECT_EQ(type, cudaGraphNodeTypeMemset);
  cudaGraphExec_t executable = nullptr;
  ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
  EXPECT_EQ(simt::kernel_names(executable).front(), "begin");
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaErrorInvalidValue);
  EXPECT_EQ(cudaGraphExecDestroy(executable), cudaSuccess);
  EXPECT_EQ(cudaGraphLaunch(executable, native(branch(0))), cudaErrorInvalidValue);
}

// --- the contract ---

TEST_F(Capture, ForbiddenCallsNameThemselvesAndEndTheCapture) {
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, 64), cudaSuccess);
  int host[4] = {};
  const auto pageable_copy = [&] {
    COHORT_CUDA_CHECK(cudaMemcpyAsync(host, data_, 4, cudaMemcpyDeviceToHost, native(branch(0))));
  };
  const std::vector<std::pair<std::string, std::function<void()>>> calls = {
      {"cudaMalloc of 64 bytes inside the capture of stream 0", [] { kernels::allocate(branch(0), 64); }},
      {"cudaFree inside", [&] { COHORT_CUDA_CHECK(cudaFree(nullptr)); }},
      {"cudaMallocHost inside", [&] { COHORT_CUDA_CHECK(cudaMallocHost(&pinned, 64)); }},
      {"cudaHostAlloc inside", [&] { COHORT_CUDA_CHECK(cudaHostAlloc(&pinned, 64, cudaHostAllocMapped)); }},
      {"cudaFreeHost inside", [&] { COHORT_CUDA_CHECK(cudaFreeHost(pinned)); }},
      {"cudaStreamSynchronize inside", [] { kernels::synchronize(branch(0)); }},
      {"cudaStreamSynchronize inside", [] { kernels::synchronize(branch(3)); }},
      {"cudaDeviceSynchronize inside", [] { COHORT_CUDA_CHECK(cudaDeviceSynchronize()); }},
      {"cudaStreamQuery inside", [] { COHORT_CUDA_CHECK(cudaStreamQuery(native(branch(0)))); }},
      {"pageable host memory inside", pageable_copy},
      {"launch of k on the null stream inside",
       [] { kernels::check_cuda(simt::enqueue(nullptr, "k", [] {}), "launch"); }}};
  for (const auto& [text, call] : calls) {
    simt::reset();
    ErrorKind kind = ErrorKind::kInternal;
    const std::string error = error_in_capture(call, &kind);
    EXPECT_EQ(kind, ErrorKind::kDevice) << text;
    EXPECT_NE(error.find("cudaErrorStreamCaptureUnsupported"), std::string::npos) << error;
    EXPECT_NE(error.find(text), std::string::npos) << error;
    // The same with the error ignored: the capture is lost, and says why.
    kernels::begin_capture(branch(0));
    mix(branch(0), 0, 0, 0);
    EXPECT_ANY_THROW(call());
    EXPECT_ANY_THROW(mix(branch(0), 0, 0, 0)) << "recording goes on after " << text;
    EXPECT_ANY_THROW(kernels::end_capture(branch(0)));
    EXPECT_FALSE(kernels::is_capturing(branch(0)));
  }
  simt::reset();
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST_F(Capture, CopiesToAndFromTheHostAreRefused) {
  int host = 0;
  ErrorKind kind = ErrorKind::kDevice;
  EXPECT_EQ(error_in_capture([&] { kernels::copy_to_device(branch(0), data_, &host, 4); }, &kind),
            "copy_to_device inside a captured step");
  EXPECT_EQ(kind, ErrorKind::kInternal);
  EXPECT_EQ(error_in_capture([&] { kernels::copy_to_host(branch(0), &host, data_, 4); }),
            "copy_to_host inside a captured step");
}

TEST_F(Capture, UnjoinedBranchesAreNamed) {
  const std::string error = error_in_capture([&] { step(true, false); });
  EXPECT_NE(error.find("cudaErrorStreamCaptureUnjoined"), std::string::npos) << error;
  EXPECT_NE(error.find("stream 1 (backward), stream 2 (backward)"), std::string::npos) << error;
  EXPECT_EQ(error_in_capture([&] { step(); }), "") << "the streams work again";
}

TEST_F(Capture, EventsFromOutsideDoNotEnter) {
  kernels::begin_capture(branch(0));
  EXPECT_THROW(kernels::order(branch(1), branch(0)), Error) << "branch 1 was never forked";
  EXPECT_NE(simt::last_violation().find("for an event recorded outside of it"), std::string::npos);
  kernels::abort_capture(branch(0));
}

TEST_F(Capture, EventsOfACaptureDoNotLeave) {
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  kernels::begin_capture(branch(0));
  mix(branch(0), 0, 0, 0);
  ASSERT_EQ(cudaEventRecord(event, native(branch(0))), cudaSuccess);
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  EXPECT_EQ(cudaStreamWaitEvent(native(branch(1)), event, 0), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaEventSynchronize(event), cudaErrorCapturedEvent);
  EXPECT_EQ(cudaEventQuery(event), cudaErrorCapturedEvent);
  kernels::release(branch(0), captured);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(Capture, CapturesDoNotNestOrMerge) {
  kernels::begin_capture(branch(0));
  EXPECT_THROW(kernels::begin_capture(branch(0)), Error);
  kernels::begin_capture(branch(1));
  EXPECT_THROW(kernels::order(branch(0), branch(1)), Error);
  EXPECT_THROW(kernels::end_capture(branch(1)), Error) << "both are lost";
  EXPECT_THROW(kernels::end_capture(branch(0)), Error);
  EXPECT_THROW(kernels::end_capture(branch(0)), Error) << "and over";
}

TEST_F(Capture, OnlyTheOriginEndsACapture) {
  kernels::begin_capture(branch(0));
  kernels::order(branch(0), branch(1));
  cudaGraph_t graph = nullptr;
  EXPECT_EQ(cudaStreamEndCapture(native(branch(1)), &graph), cudaErrorStreamCaptureUnmatched);
  kernels::abort_capture(branch(0));
  EXPECT_FALSE(kernels::is_capturing(branch(1)));
}

TEST_F(Capture, FailuresOfInstantiateAndLaunchAreThrown) {
  kernels::begin_capture(branch(0));
  step();
  const kernels::CapturedStep captured = kernels::end_capture(branch(0));
  simt::fail_next("cudaGraphLaunch", cudaErrorLaunchFailure);
  EXPECT_THROW(kernels::launch(branch(0), captured), Error);
  simt::reset();
  kernels::launch(branch(0), captured);
  kernels::synchronize(branch(0));
  kernels::release(branch(0), captured);
  EXPECT_THROW(kernels::launch(branch(0), {}), Error);
  kernels::release(branch(0), {});

  kernels::begin_capture(branch(0));
  step();
  simt::fail_next("cudaGraphInstantiate", cudaErrorMemoryAllocation);
  try {
    kernels::end_capture(branch(0));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kMemory);
  }
}

}  // namespace
}  // namespace cohort
