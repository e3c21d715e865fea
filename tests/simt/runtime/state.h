// What the fake runtime remembers between calls: statuses and counters (Status), streams, events, captures
// and graphs. CUDA's handle types are incomplete in its headers; here they get their bodies.
#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "simt/runtime/scheduler.h"

namespace simt::runtime {

struct Capture;

}  // namespace simt::runtime

struct CUstream_st {
  int index = 0;  // in order of creation
  int priority = 0;
  std::vector<simt::runtime::OperationPtr> tail;  // what the next operation waits for
  simt::runtime::Lane lane;
  // While it is part of a capture.
  simt::runtime::Capture* capture = nullptr;
  std::vector<int> capture_tail;  // nodes of the capture's graph
};

struct CUevent_st {
  bool recorded = false;
  bool timed = true;
  // When it was recorded, or later, when the host last waited for it.
  std::chrono::steady_clock::time_point reached;
  std::vector<simt::runtime::OperationPtr> marked;
  // Recorded in a capture; `capture` is null when that has ended.
  bool captured = false;
  simt::runtime::Capture* capture = nullptr;
  std::vector<int> capture_marked;
};

struct CUgraphNode_st {
  simt::runtime::Work work;
  std::vector<int> dependencies;  // earlier nodes
  int stream = 0;                 // of the capture
};

struct CUgraph_st {
  std::vector<std::shared_ptr<CUgraphNode_st>> nodes;
};

struct CUgraphExec_st {
  CUgraph_st graph;
  std::map<int, std::unique_ptr<simt::runtime::Lane>> lanes;  // by stream of the capture
  std::vector<simt::runtime::OperationPtr> last;              // leaves of the last launch
  std::vector<simt::runtime::OperationPtr> last_all;
  ~CUgraphExec_st();
};

namespace simt::runtime {

struct Capture {
  CUstream_st* origin = nullptr;
  CUgraph_st graph;
  bool invalidated = false;
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
};

// Statuses, injected failures, counters, devices.
class Status {
 public:
  static Status& instance();

  // Counts the call, and answers with a failure when one was injected or the context is lost.
  cudaError_t enter(const char* function);
  // The status of a call that breaks a rule, with the reason.
  cudaError_t violate(cudaError_t status, const std::string& reason);
  cudaError_t fail(cudaError_t status);  // no rule of the program's: remembers it for cudaGetLastError
  cudaError_t take_last_error();
  void reset();

  std::map<std::string, int> calls;
  std::string violation;
  cudaError_t violation_status = cudaSuccess;
  DeviceSetup devices;
  int device = 0;

 private:
  struct Injected {
    cudaError_t error;
    int nth;
  };
  friend void simt::fail_next(const std::string&, cudaError_t, int);
  std::map<std::string, Injected> injected_;
  cudaError_t last_ = cudaSuccess, lost_ = cudaSuccess;
};

// All handles that are alive.
struct Handles {
  static Handles& instance();
  Handles() { null_stream.index = -1; }
  std::map<CUstream_st*, std::unique_ptr<CUstream_st>> streams;
  std::map<CUevent_st*, std::unique_ptr<CUevent_st>> events;
  std::map<CUgraph_st*, std::unique_ptr<CUgraph_st>> graphs;
  std::map<CUgraphExec_st*, std::shared_ptr<CUgraphExec_st>> executables;
  std::set<std::unique_ptr<Capture>> captures;
  CUstream_st null_stream;
  int num_streams = 0;

  CUstream_st* find(cudaStream_t stream);  // the null stream for null; null for a handle that is none
  bool has(cudaEvent_t event) const { return events.count(event) != 0; }
};

std::string name_of(const CUstream_st& stream);

// Puts work on a stream: into its capture, or queued. `call` names the function for messages.
cudaError_t put(CUstream_st* stream, Work work, const std::string& call);

// cudaSuccess outside of captures; inside, what `what` does is forbidden and ends them.
cudaError_t forbid_in_capture(const std::string& what);
void invalidate_captures();
void end(Capture& capture);  // its streams and events leave it

// Runs everything, as calls that wait for the whole device do. Kernel errors stay for a call that can report.
void wait_for_device();

}  // namespace simt::runtime

// Every function of the API begins with this.
#define SIMT_ENTER(function)                                                           \
  if (const cudaError_t entered = ::simt::runtime::Status::instance().enter(function); \
      entered != cudaSuccess)                                                          \
  return entered
