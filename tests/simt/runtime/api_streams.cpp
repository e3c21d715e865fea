// Streams and events.
#include <algorithm>

#include "simt/runtime/state.h"

using simt::runtime::Capture;
using simt::runtime::Handles;
using simt::runtime::Scheduler;
using simt::runtime::Status;

namespace {

cudaError_t no_stream(const char* call) {
  return Status::instance().violate(cudaErrorInvalidResourceHandle,
                                    std::string(call) + " of a stream that does not exist");
}

cudaError_t no_event(const char* call) {
  return Status::instance().violate(cudaErrorInvalidResourceHandle,
                                    std::string(call) + " of an event that does not exist");
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& more) {
  for (const T& x : more) {
    if (std::find(to.begin(), to.end(), x) == to.end()) to.push_back(x);
  }
}

// An event of a capture makes the stream part of it.
cudaError_t wait_in_capture(CUstream_st& stream, const CUevent_st& event) {
  Status& status = Status::instance();
  if (event.capture == nullptr) {
    return status.violate(cudaErrorCapturedEvent,
                          "cudaStreamWaitEvent for an event of a capture that has ended");
  }
  if (stream.index < 0) return simt::runtime::forbid_in_capture("cudaStreamWaitEvent on the null stream");
  if (stream.capture != nullptr && stream.capture != event.capture) {
    stream.capture->invalidated = event.capture->invalidated = true;
    return status.violate(cudaErrorStreamCaptureMerge, "cudaStreamWaitEvent merges two captures");
  }
  if (stream.capture == nullptr) {
    stream.capture = event.capture;
    stream.capture_tail.clear();
  }
  append(stream.capture_tail, event.capture_marked);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  SIMT_ENTER("cudaStreamCreateWithPriority");
  if (flags != cudaStreamNonBlocking) {
    return Status::instance().violate(cudaErrorInvalidValue,
                                      "streams must be non-blocking: else they wait for the null stream");
  }
  Handles& handles = Handles::instance();
  auto created = std::make_unique<CUstream_st>();
  created->index = handles.num_streams++;
  created->priority = priority;
  *stream = created.get();
  handles.streams[*stream] = std::move(created);
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  SIMT_ENTER("cudaStreamDestroy");
  Handles& handles = Handles::instance();
  if (stream == nullptr || handles.find(stream) == nullptr) return no_stream("cudaStreamDestroy");
  if (stream->capture != nullptr) return simt::runtime::forbid_in_capture("cudaStreamDestroy");
  Scheduler::instance().wait_for(stream->tail);  // its lane goes with it
  handles.streams.erase(stream);
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
  SIMT_ENTER("cudaStreamSynchronize");
  CUstream_st* const stream = Handles::instance().find(handle);
  if (stream == nullptr) return no_stream("cudaStreamSynchronize");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaStreamSynchronize")) return error;
  Scheduler::instance().wait_for(stream->tail);
  Scheduler::instance().rethrow();
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
  SIMT_ENTER("cudaStreamQuery");
  CUstream_st* const stream = Handles::instance().find(handle);
  if (stream == nullptr) return no_stream("cudaStreamQuery");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaStreamQuery")) return error;
  const bool done = Scheduler::instance().poll(stream->tail);
  Scheduler::instance().rethrow();
  return done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
  SIMT_ENTER("cudaStreamWaitEvent");
  CUstream_st* const stream = Handles::instance().find(handle);
  if (stream == nullptr) return no_stream("cudaStreamWaitEvent");
  if (!Handles::instance().has(event)) return no_event("cudaStreamWaitEvent");
  if (event->captured) return wait_in_capture(*stream, *event);
  if (stream->capture != nullptr) {
    stream->capture->invalidated = true;
    return Status::instance().violate(cudaErrorStreamCaptureIsolation,
                                      "cudaStreamWaitEvent inside the capture of " +
                                          simt::runtime::name_of(*stream->capture->origin) +
                                          " for an event recorded outside of it");
  }
  append(stream->tail, event->marked);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  SIMT_ENTER("cudaDeviceGetStreamPriorityRange");
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  SIMT_ENTER("cudaEventCreateWithFlags");
  auto created = std::make_unique<CUevent_st>();
  created->timed = (flags & cudaEventDisableTiming) == 0;
  *event = created.get();
  Handles::instance().events[*event] = std::move(created);
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  SIMT_ENTER("cudaEventDestroy");
  return Handles::instance().events.erase(event) == 1 ? cudaSuccess : no_event("cudaEventDestroy");
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
  SIMT_ENTER("cudaEventRecord");
  CUstream_st* const stream = Handles::instance().find(handle);
  if (stream == nullptr) return no_stream("cudaEventRecord");
  if (!Handles::instance().has(event)) return no_event("cudaEventRecord");
  if (stream->index < 0) {
    if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaEventRecord on the null stream")) {
      return error;
    }
  }
  event->recorded = true;
  event->reached = std::chrono::steady_clock::now();
  event->captured = stream->capture != nullptr;
  event->capture = stream->capture;
  event->capture_marked = stream->capture_tail;
  event->marked = event->captured ? std::vector<simt::runtime::OperationPtr>{} : stream->tail;
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  SIMT_ENTER("cudaEventSynchronize");
  if (!Handles::instance().has(event)) return no_event("cudaEventSynchronize");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaEventSynchronize")) return error;
  if (event->captured) {
    return Status::instance().violate(cudaErrorCapturedEvent,
                                      "cudaEventSynchronize with an event that was recorded in a capture");
  }
  Scheduler::instance().wait_for(event->marked);
  Scheduler::instance().rethrow();
  event->reached = std::chrono::steady_clock::now();
  return cudaSuccess;
}

// The emulator's own time, which says nothing about a device.
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  SIMT_ENTER("cudaEventElapsedTime");
  for (const cudaEvent_t event : {begin, end}) {
    if (!Handles::instance().has(event)) return no_event("cudaEventElapsedTime");
    if (!event->recorded || event->captured || !event->timed) {
      return Status::instance().violate(
          cudaErrorInvalidResourceHandle,
          "cudaEventElapsedTime with an event without timing, or that no stream has recorded");
    }
    if (!Scheduler::instance().poll(event->marked)) return cudaErrorNotReady;
  }
  *milliseconds = std::chrono::duration<float, std::milli>(end->reached - begin->reached).count();
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  SIMT_ENTER("cudaEventQuery");
  if (!Handles::instance().has(event)) return no_event("cudaEventQuery");
  if (const cudaError_t error = simt::runtime::forbid_in_capture("cudaEventQuery")) return error;
  if (event->captured) {
    return Status::instance().violate(cudaErrorCapturedEvent,
                                      "cudaEventQuery of an event that was recorded in a capture");
  }
  const bool done = Scheduler::instance().poll(event->marked);
  Scheduler::instance().rethrow();
  return done ? cudaSuccess : cudaErrorNotReady;
}

}  // extern "C"
