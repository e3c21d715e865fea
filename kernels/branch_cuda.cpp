#include <algorithm>
#include <string>
#include <vector>

#include "kernels/base/rehearsal.h"
#include "kernels/branch.h"
#include "kernels/cuda/runtime.h"
#include "kernels/devices.h"

namespace cohort::kernels {
namespace {

struct OpenBranch {
  cudaStream_t stream = nullptr;
  // Marks "what the stream holds now" for order(). One is enough: a wait takes hold of the mark when it is
  // enqueued, so the event can be recorded anew at once.
  cudaEvent_t mark = nullptr;
};

// Streams are shared by all contexts of the process and never destroyed: captured steps, vendor handles and
// copies in flight refer to them, and contexts come and go.
struct OpenBranches {
  int device = -1;
  std::vector<OpenBranch> list;
  std::vector<OpenBranch> sides;

  static OpenBranches& instance() {
    static OpenBranches* const branches = new OpenBranches;
    return *branches;
  }
};

void use_device(OpenBranches& branches, int device) {
  if (branches.device == device) return;
  if (branches.device >= 0) {
    throw Error(ErrorKind::kDevice,
                "device cuda:" + std::to_string(device) +
                    " asked for, but this process uses cuda:" + std::to_string(branches.device),
                "one process uses one GPU: start one run for each");
  }
  check_cuda_device(device);
  COHORT_CUDA_CHECK(cudaSetDevice(device));
  branches.device = device;
}

enum class Urgency { kMain, kBranch, kSide };

OpenBranch open(Urgency urgency) {
  int least = 0, greatest = 0;  // a smaller number is more urgent
  COHORT_CUDA_CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  OpenBranch branch;
  // The main branch carries what all networks wait for (inputs, losses, the optimiser): it goes first. What
  // nobody waits for goes last. Streams do not wait for the null stream, which we never use.
  const int priority = urgency == Urgency::kMain     ? greatest
                       : urgency == Urgency::kBranch ? std::min(greatest + 1, least)
                                                     : least;
  COHORT_CUDA_CHECK(cudaStreamCreateWithPriority(&branch.stream, cudaStreamNonBlocking, priority));
  // Here and not when it is first needed, which may be inside a capture.
  COHORT_CUDA_CHECK(cudaEventCreateWithFlags(&branch.mark, cudaEventDisableTiming));
  return branch;
}

const OpenBranch& branch_of(CudaStream stream) {
  const OpenBranches& branches = OpenBranches::instance();
  const bool side = stream.branch < 0;
  const std::vector<OpenBranch>& list = side ? branches.sides : branches.list;
  const auto index = static_cast<std::size_t>(side ? -1 - stream.branch : stream.branch);
  check(index < list.size() && list[index].stream == stream.handle,
        "branch: a stream that open_branch() and open_side() did not make");
  return list[index];
}

void count_nodes(cudaGraph_t graph, CapturedStep& step) {
  std::size_t count = 0;
  COHORT_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
  std::vector<cudaGraphNode_t> nodes(count);
  COHORT_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
  for (const cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type{};
    COHORT_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
    ++(type == cudaGraphNodeTypeKernel   ? step.kernels
       : type == cudaGraphNodeTypeMemcpy ? step.copies
       : type == cudaGraphNodeTypeMemset ? step.memsets
                                         : step.others);
  }
}

CapturedStep end_rehearsal(Rehearsal& rehearsal) {
  rehearsal.end_capture();
  CapturedStep step;
  for (const Rehearsal::Operation& operation : rehearsal.operations()) {
    step.kernels += operation.kernels + operation.vendor;
    step.copies += operation.copies;
    step.memsets += operation.memsets;
  }
  return step;
}

}  // namespace

CudaStream open_branch(int device, int index) {
  check(index >= 0, "branch: negative index");
  OpenBranches& branches = OpenBranches::instance();
  use_device(branches, device);
  while (branches.list.size() <= static_cast<std::size_t>(index)) {
    branches.list.push_back(open(branches.list.empty() ? Urgency::kMain : Urgency::kBranch));
  }
  return {.handle = branches.list[static_cast<std::size_t>(index)].stream, .branch = index};
}

CudaStream open_side(int device, int index) {
  check(index >= 0, "branch: negative index");
  OpenBranches& branches = OpenBranches::instance();
  use_device(branches, device);
  while (branches.sides.size() <= static_cast<std::size_t>(index))
    branches.sides.push_back(open(Urgency::kSide));
  return {.handle = branches.sides[static_cast<std::size_t>(index)].stream, .branch = -1 - index};
}

void order(CudaStream before, CudaStream after) {
  if (before.rehearsal != nullptr) return;
  const OpenBranch& branch = branch_of(before);
  COHORT_CUDA_CHECK(cudaEventRecord(branch.mark, branch.stream));
  COHORT_CUDA_CHECK(cudaStreamWaitEvent(native(after), branch.mark, 0));
}

void begin_capture(CudaStream stream) {
  if (stream.rehearsal != nullptr) return stream.rehearsal->begin_capture();
  // Thread-local: what a feed or a writer does on another host thread does not disturb it.
  COHORT_CUDA_CHECK(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal));
}

CapturedStep end_capture(CudaStream stream) {
  if (stream.rehearsal != nullptr) return end_rehearsal(*stream.rehearsal);
  cudaGraph_t graph = nullptr;
  COHORT_CUDA_CHECK(cudaStreamEndCapture(native(stream), &graph));
  CapturedStep step;
  cudaGraphExec_t executable = nullptr;
  // With the priorities of the branches, not that of the stream it is launched on.
  const cudaError_t status =
      cudaGraphInstantiate(&executable, graph, cudaGraphInstantiateFlagUseNodePriority);
  if (status == cudaSuccess) count_nodes(graph, step);
  (void)cudaGraphDestroy(graph);
  check_cuda(status, "cudaGraphInstantiate");
  step.graph = executable;
  return step;
}

void abort_capture(CudaStream stream) noexcept {
  if (stream.rehearsal != nullptr) return stream.rehearsal->end_capture();
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(native(stream), &graph) == cudaSuccess) (void)cudaGraphDestroy(graph);
  (void)cudaGetLastError();
}

void launch(CudaStream stream, CapturedStep step) {
  if (stream.rehearsal != nullptr) return;
  check(step.graph != nullptr, "branch: launch of a step that was not captured");
  COHORT_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(step.graph), native(stream)));
}

void release(CudaStream, CapturedStep step) noexcept {
  // In flight or not: the runtime frees it when it is done.
  if (step.graph != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(step.graph));
}

}  // namespace cohort::kernels
