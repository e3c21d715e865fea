#include "simt/runtime/state.h"

#include <algorithm>
#include <cstdlib>

namespace simt {
namespace runtime {
namespace {

bool loses_the_context(cudaError_t error) {
  switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

}  // namespace

Status& Status::instance() {
  static Status* const status = new Status;
  return *status;
}

cudaError_t Status::enter(const char* function) {
  ++calls[function];
  const auto injected = injected_.find(function);
  if (injected != injected_.end() && --injected->second.nth == 0) {
    const cudaError_t error = injected->second.error;
    injected_.erase(injected);
    if (loses_the_context(error)) lost_ = error;
    return fail(error);
  }
  return lost_ == cudaSuccess ? cudaSuccess : fail(lost_);
}

cudaError_t Status::violate(cudaError_t status, const std::string& reason) {
  violation = reason;
  violation_status = status;
  return fail(status);
}

cudaError_t Status::fail(cudaError_t status) {
  last_ = status;
  return status;
}

cudaError_t Status::take_last_error() {
  const cudaError_t error = last_;
  last_ = lost_;
  return error;
}

void Status::reset() {
  calls.clear();
  violation.clear();
  violation_status = cudaSuccess;
  devices = {};
  injected_.clear();
  last_ = lost_ = cudaSuccess;
}

Handles& Handles::instance() {
  static Handles* const handles = new Handles;
  return *handles;
}

CUstream_st* Handles::find(cudaStream_t stream) {
  if (stream == nullptr) return &null_stream;
  const auto found = streams.find(stream);
  return found == streams.end() ? nullptr : found->second.get();
}

std::string name_of(const CUstream_st& stream) {
  return stream.index < 0 ? "the null stream" : "stream " + std::to_string(stream.index);
}

cudaError_t put(CUstream_st* stream, Work work, const std::string& call) {
  Status& status = Status::instance();
  if (stream == nullptr) {
    return status.violate(cudaErrorInvalidResourceHandle, call + " on a stream that does not exist");
  }
  if (stream->index < 0) {
    if (const cudaError_t error = forbid_in_capture(call + " on the null stream")) return error;
  }
  if (Capture* const capture = stream->capture) {
    if (capture->invalidated) {
      return status.violate(
          cudaErrorStreamCaptureInvalidated,
          call + " on " + name_of(*stream) + ", whose capture was invalidated: " + status.violation);
    }
    auto node = std::make_shared<CUgraphNode_st>();
    node->work = std::move(work);
    node->dependencies = stream->capture_tail;
    node->stream = stream->index;
    stream->capture_tail = {static_cast<int>(capture->graph.nodes.size())};
    capture->graph.nodes.push_back(std::move(node));
    return cudaSuccess;
  }
  auto operation = std::make_shared<Operation>();
  operation->stream = stream->index;
  operation->lane = &stream->lane;
  operation->own_work = std::make_unique<Work>(std::move(work));
  operation->work = operation->own_work.get();
  operation->dependencies = std::move(stream->tail);
  stream->tail = {operation};
  Scheduler& scheduler = Scheduler::instance();
  scheduler.submit(operation);
  if (stream->index < 0) {
    scheduler.wait_for(stream->tail);
    scheduler.rethrow();
  }
  return cudaSuccess;
}

void invalidate_captures() {
  for (const auto& capture : Handles::instance().captures) {
    if (capture->mode != cudaStreamCaptureModeRelaxed) capture->invalidated = true;
  }
}

cudaError_t forbid_in_capture(const std::string& what) {
  for (const auto& capture : Handles::instance().captures) {
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    invalidate_captures();
    return Status::instance().violate(cudaErrorStreamCaptureUnsupported,
                                      what + " inside the capture of " + name_of(*capture->origin));
  }
  return cudaSuccess;
}

void end(Capture& capture) {
  Handles& handles = Handles::instance();
  for (const auto& [handle, stream] : handles.streams) {
    if (stream->capture != &capture) continue;
    stream->capture = nullptr;
    stream->capture_tail.clear();
  }
  for (const auto& [handle, event] : handles.events) {
    if (event->capture == &capture) event->capture = nullptr;
  }
  const auto found = std::find_if(handles.captures.begin(), handles.captures.end(),
                                  [&](const auto& owned) { return owned.get() == &capture; });
  handles.captures.erase(found);
}

void wait_for_device() {
  Scheduler& scheduler = Scheduler::instance();
  scheduler.wait_for_all();
  for (const auto& [handle, stream] : Handles::instance().streams) scheduler.wait_for(stream->tail);
}

}  // namespace runtime

using runtime::Scheduler;
using runtime::Status;

cudaError_t enqueue(cudaStream_t stream, const char* name, std::function<void()> run) {
  SIMT_ENTER("launch");
  return runtime::put(runtime::Handles::instance().find(stream),
                      {runtime::WorkKind::kKernel, name, std::move(run)}, std::string("launch of ") + name);
}

void set_order(StreamOrder order) {
  Scheduler::instance().set_order(order);
}

StreamOrder order() {
  return Scheduler::instance().order();
}

std::string to_string(StreamOrder order) {
  switch (order.order) {
    case Order::kFifo:
      return "fifo";
    case Order::kForward:
      return "forward";
    case Order::kReverse:
      return "reverse";
    case Order::kRandom:
      break;
  }
  return "random_" + std::to_string(order.seed);
}

std::vector<StreamOrder> all_orders() {
  return {{Order::kFifo, 0},   {Order::kForward, 0}, {Order::kReverse, 0},
          {Order::kRandom, 1}, {Order::kRandom, 2},  {Order::kRandom, 3}};
}

void fail_next(const std::string& function, cudaError_t error, int nth) {
  Status::instance().injected_[function] = {error, nth};
}

int default_device_count() {
  const char* const text = std::getenv("SIMT_DEVICES");
  return text == nullptr ? 1 : std::atoi(text);
}

void set_devices(const DeviceSetup& setup) {
  Status::instance().devices = setup;
}

void reset() {
  runtime::Handles& handles = runtime::Handles::instance();
  while (!handles.captures.empty()) runtime::end(**handles.captures.begin());
  Scheduler::instance().abandon();
  try {
    Scheduler::instance().rethrow();
  } catch (...) {  // reported or not, it is over
  }
  Status::instance().reset();
}

const std::string& last_violation() {
  return Status::instance().violation;
}

int calls(const std::string& function) {
  const auto& all = Status::instance().calls;
  const auto found = all.find(function);
  return found == all.end() ? 0 : found->second;
}

int num_pending() {
  return Scheduler::instance().num_pending();
}

}  // namespace simt
