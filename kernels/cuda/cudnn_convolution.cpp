// The convolution engine of the product: cuDNN.
//
// A key's plan is chosen once: heuristics propose, what is not deterministic or rounds more than the key
// allows is dropped, the rest is timed. A candidate is timed as training runs it, captured into a CUDA graph
// and replayed, which also proves that it can be captured. The winner is kept on disk (plan_cache.h); where
// nothing can be kept, the heuristics' first choice is taken instead, because a timing could come out
// otherwise in the next run and change its bits.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "kernels/base/error.h"
#include "kernels/base/rehearsal.h"
#include "kernels/cuda/convolution_engine.h"
#include "kernels/cuda/cudnn_graph.h"
#include "kernels/cuda/plan_cache.h"
#include "kernels/cuda/runtime.h"

namespace cohort::kernels::cuda {
namespace {

constexpr std::size_t kTimedPerMode = 6;
constexpr std::size_t kCompiledPerMode = 2;  // plans of mixed keys are compiled when they are made: seconds
constexpr std::size_t kMaxWorkspace = std::size_t{512} << 20;
constexpr int kRunsInGraph = 4;
constexpr int kReplays = 5;

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) {
    if (cudaMalloc(&data_, bytes) != cudaSuccess) {
      data_ = nullptr;
      (void)cudaGetLastError();
      return;
    }
    // Small numbers, not zeros, which would draw less power and so clock higher.
    COHORT_CUDA_CHECK(cudaMemset(data_, 0x3c, bytes));
  }
  ~DeviceMemory() {
    if (data_ != nullptr) (void)cudaFree(data_);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  std::byte* data() const { return static_cast<std::byte*>(data_); }

 private:
  void* data_ = nullptr;
};

constexpr std::size_t rounded_up(std::size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

// Times plans of one key on buffers of its own: the caller's may not exist yet, and would be written.
class Stopwatch {
 public:
  Stopwatch(const ConvolutionKey& key, std::size_t workspace)
      : x_(bytes(key.shape.num_x(), key)),
        weight_(bytes(key.shape.num_weight(), key)),
        y_(bytes(key.shape.num_y(), key)),
        memory_(x_ + weight_ + y_ + rounded_up(workspace)) {
    COHORT_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    COHORT_CUDA_CHECK(cudaEventCreate(&begin_));
    COHORT_CUDA_CHECK(cudaEventCreate(&end_));
    COHORT_CUDA_CHECK(cudaDeviceSynchronize());
  }
  ~Stopwatch() {
    (void)cudaStreamSynchronize(stream_);
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
    (void)cudaStreamDestroy(stream_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  bool has_memory() const { return memory_.data() != nullptr; }

  // Of one run, in microseconds; infinite when the plan cannot be captured or run.
  double time(const ExecutionPlan& plan, cudnnHandle_t handle) const {
    const cudaGraphExec_t graph = capture(plan, handle);
    if (graph == nullptr) return std::numeric_limits<double>::infinity();
    float best = std::numeric_limits<float>::infinity();
    bool ok = cudaGraphLaunch(graph, stream_) == cudaSuccess;
    for (int i = 0; ok && i < kReplays; ++i) {
      float milliseconds = 0;
      ok = cudaEventRecord(begin_, stream_) == cudaSuccess &&
           cudaGraphLaunch(graph, stream_) == cudaSuccess && cudaEventRecord(end_, stream_) == cudaSuccess &&
           cudaEventSynchronize(end_) == cudaSuccess &&
           cudaEventElapsedTime(&milliseconds, begin_, end_) == cudaSuccess;
      if (ok) best = std::min(best, milliseconds);
    }
    (void)cudaGraphExecDestroy(graph);
    if (!ok) (void)cudaGetLastError();
    return ok ? static_cast<double>(best) * 1e3 / kRunsInGraph : std::numeric_limits<double>::infinity();
  }

 private:
  static std::size_t bytes(std::int64_t count, const ConvolutionKey& key) {
    return rounded_up(static_cast<std::size_t>(count) * std::max(size_of(key.dtype), size_of(key.result)));
  }

  bool run(const ExecutionPlan& plan, cudnnHandle_t handle) const {
    std::byte* const x = memory_.data();
    try {
      plan.execute(handle, x, x + x_, x + x_ + weight_, x + x_ + weight_ + y_);
    } catch (const Error&) {
      return false;
    }
    return true;
  }

  cudaGraphExec_t capture(const ExecutionPlan& plan, cudnnHandle_t handle) const {
    require(cudnn().set_stream(handle, stream_), "choosing a stream");
    // Once outside: code is loaded when it first runs, which a capture would not survive.
    if (!run(plan, handle) || cudaStreamSynchronize(stream_) != cudaSuccess) {
      (void)cudaGetLastError();
      return nullptr;
    }
    COHORT_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal));
    bool ok = true;
    for (int i = 0; ok && i < kRunsInGraph; ++i) ok = run(plan, handle);
    cudaGraph_t graph = nullptr;
    ok = cudaStreamEndCapture(stream_, &graph) == cudaSuccess && ok;
    cudaGraphExec_t exec = nullptr;
    if (ok && cudaGraphInstantiate(&exec, graph, 0) != cudaSuccess) exec = nullptr;
    if (graph != nullptr) (void)cudaGraphDestroy(graph);
    (void)cudaGetLastError();
    return exec;
  }

  std::size_t x_, weight_, y_;
  DeviceMemory memory_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

class CudnnConvolution final : public Convolution {
 public:
  CudnnConvolution(const ConvolutionKey& key, std::shared_ptr<const ExecutionPlan> plan, cudnnHandle_t handle)
      : pass_(key.pass), plan_(std::move(plan)), handle_(handle) {
    workspace_bytes_ = plan_->workspace_bytes();
    implementation_ = "cudnn:" + plan_->name();
  }

  void enqueue(CudaStream stream, const Pointers& p) const override {
    require(cudnn().set_stream(handle_, native(stream)), "choosing a stream");
    switch (pass_) {
      case Conv2dPass::kForward:
        return plan_->execute(handle_, p.x, p.weight, p.result, p.workspace);
      case Conv2dPass::kBackwardData:
        return plan_->execute(handle_, p.result, p.weight, p.grad_y, p.workspace);
      case Conv2dPass::kBackwardWeights:
        return plan_->execute(handle_, p.x, p.result, p.grad_y, p.workspace);
    }
  }

 private:
  Conv2dPass pass_;
  std::shared_ptr<const ExecutionPlan> plan_;
  cudnnHandle_t handle_;
};

// What cuDNN would be asked to do, where nothing is run: one node, and no word about its workspace, which no
// library was asked for.
class RehearsedConvolution final : public Convolution {
 public:
  RehearsedConvolution() { implementation_ = "rehearsed"; }
  void enqueue(CudaStream stream, const Pointers&) const override {
    stream.rehearsal->node(Rehearsal::Node::kVendor);
  }
};

std::string gpu_name() {
  int device = 0;
  cudaDeviceProp properties{};
  COHORT_CUDA_CHECK(cudaGetDevice(&device));
  COHORT_CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
  return properties.name;
}

std::string library_version() {
  const std::size_t version = cudnn().version();
  return "cuDNN " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

void tell(const std::string& line) {
  std::fprintf(stderr, "cohort: %s\n", line.c_str());
}

// COHORT_CUDA_TUNE=0: no timing, the heuristics' first choice.
bool tuning_is_on() {
  const char* const asked = std::getenv("COHORT_CUDA_TUNE");
  return asked == nullptr || asked[0] != '0';
}

// Everything that lives until the process ends: plans, and each branch's handle.
class Engine {
 public:
  static Engine& instance() {
    static Engine* const engine = new Engine;  // CUDA may be gone when static objects are destroyed
    return *engine;
  }

  const Convolution* convolution(CudaStream stream, const ConvolutionKey& key) {
    const std::lock_guard lock(mutex_);
    const auto at = convolutions_.find({stream.branch, key});
    if (at != convolutions_.end()) return at->second.get();
    check(!is_capturing(stream), "convolution: a first use inside a captured step");
    const cudnnHandle_t handle = handle_of(stream.branch);
    auto plan = plans_.find(key);
    if (plan == plans_.end()) {
      std::optional<ExecutionPlan> chosen = choose(key, {.handle = handle});
      plan = plans_.emplace(key, chosen ? std::make_shared<const ExecutionPlan>(std::move(*chosen)) : nullptr)
                 .first;
    }
    std::unique_ptr<Convolution>& made = convolutions_[{stream.branch, key}];
    if (plan->second) made = std::make_unique<CudnnConvolution>(key, plan->second, handle);
    return made.get();
  }

 private:
  Engine() : cache_(tuning_is_on() ? default_plan_cache_path() : "", gpu_name(), library_version()) {
    report();
  }

  void report() {
    if (cache_.problem() == reported_) return;
    reported_ = cache_.problem();
    tell(reported_);
  }

  cudnnHandle_t handle_of(int branch) {
    cudnnHandle_t& handle = handles_[branch];
    if (handle == nullptr) require(cudnn().create_handle(&handle), "starting");
    return handle;
  }

  std::optional<ExecutionPlan> choose(const ConvolutionKey& key, const PlanTarget& target) {
    std::optional<ConvolutionGraph> graph = ConvolutionGraph::make(key, target);
    if (!graph) return std::nullopt;
    const bool compiled = key.result != key.dtype;
    std::vector<EngineConfig> candidates =
        graph->candidates(target, compiled ? kCompiledPerMode : kTimedPerMode);
    // What was chosen before comes first; adding follows its overwriting twin, which is timed.
    ConvolutionKey twin = key;
    twin.accumulate = false;
    const std::optional<std::string> wanted = chosen(twin);
    const auto begin = candidates.begin();
    const bool found = wanted && std::stable_partition(begin, candidates.end(), [&](const EngineConfig& c) {
                                   return c.name == *wanted;
                                 }) != begin;
    const bool timed = cache_.keeps() && !found && !key.accumulate;
    if (wanted && timed)
      tell("the plan kept for " + text_of(key) + " is none that cuDNN proposes: timed again");
    std::vector<ExecutionPlan> plans;
    for (EngineConfig& candidate : candidates) {
      std::optional<ExecutionPlan> plan = ExecutionPlan::make(std::move(candidate), target);
      if (!plan || plan->workspace_bytes() > kMaxWorkspace) continue;
      plans.push_back(std::move(*plan));
      if (!timed) break;
    }
    if (plans.empty()) return std::nullopt;
    if (!timed || plans.size() == 1) return std::move(plans.front());
    const std::optional<std::size_t> best = fastest(key, plans, target.handle, wanted.value_or(""));
    if (!best) return std::nullopt;
    return std::move(plans[*best]);
  }

  std::optional<std::string> chosen(const ConvolutionKey& key) const {
    const auto at = plans_.find(key);
    return at != plans_.end() && at->second ? std::optional(at->second->name()) : cache_.find(key);
  }

  // None when no plan could be captured and run.
  std::optional<std::size_t> fastest(const ConvolutionKey& key, const std::vector<ExecutionPlan>& plans,
                                     cudnnHandle_t handle, const std::string& stale) {
    std::size_t workspace = 0;
    for (const ExecutionPlan& plan : plans) workspace = std::max(workspace, plan.workspace_bytes());
    const Stopwatch stopwatch(key, workspace);
    if (!stopwatch.has_memory()) return 0;
    std::size_t best = 0;
    double best_time = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const double time = stopwatch.time(plans[i], handle);
      if (time < best_time) {
        best = i;
        best_time = time;
      }
    }
    if (best_time == std::numeric_limits<double>::infinity()) {
      tell("no plan of cuDNN for " + text_of(key) + " can be captured");
      return std::nullopt;
    }
    const std::string kept = cache_.store(key, plans[best].name(), best_time, stale);
    report();
    for (std::size_t i = 0; i < plans.size(); ++i) {
      if (plans[i].name() == kept) return i;
    }
    return best;
  }

  std::mutex mutex_;
  std::map<int, cudnnHandle_t> handles_;
  // A plan keeps no state: branches share it, each with a handle (a stream) and a workspace of its own.
  std::map<ConvolutionKey, std::shared_ptr<const ExecutionPlan>> plans_;
  std::map<std::pair<int, ConvolutionKey>, std::unique_ptr<Convolution>> convolutions_;
  std::string reported_;
  PlanCache cache_;
};

}  // namespace

const Convolution* convolution(CudaStream stream, const ConvolutionKey& key) {
  static const RehearsedConvolution rehearsed;
  if (stream.rehearsal != nullptr) return &rehearsed;
  return Engine::instance().convolution(stream, key);
}

}  // namespace cohort::kernels::cuda
