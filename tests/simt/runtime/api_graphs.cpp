// Stream capture and graphs.
#include <algorithm>

#include "simt/runtime/state.h"

using simt::runtime::Capture;
using simt::runtime::Handles;
using simt::runtime::Operation;
using simt::runtime::OperationPtr;
using simt::runtime::Scheduler;
using simt::runtime::Status;
using simt::runtime::WorkKind;

CUgraphExec_st::~CUgraphExec_st() {
  // The host frees what the device has read.
  for (const OperationPtr& operation : last_all) simt::runtime::receive(&operation->finished);
}

namespace {

// Nodes that `nodes` come after, themselves included.
std::vector<bool> reached_from(const CUgraph_st& graph, const std::vector<int>& nodes) {
  std::vector<bool> reached(graph.nodes.size(), false);
  for (const int node : nodes) reached[static_cast<std::size_t>(node)] = true;
  for (std::size_t i = graph.nodes.size(); i-- > 0;) {
    if (!reached[i]) continue;
    for (const int before : graph.nodes[i]->dependencies) reached[static_cast<std::size_t>(before)] = true;
  }
  return reached;
}

// The streams of the capture whose work its origin does not wait for, in words.
std::string unjoined(const Capture& capture) {
  const std::vector<bool> reached = reached_from(capture.graph, capture.origin->capture_tail);
  std::map<int, std::string> open;  // by stream
  for (const auto& [handle, stream] : Handles::instance().streams) {
    if (stream->capture != &capture) continue;
    for (const int node : stream->capture_tail) {
      if (reached[static_cast<std::size_t>(node)]) continue;
      open[stream->index] = simt::runtime::name_of(*stream) + " (" +
                            capture.graph.nodes[static_cast<std::size_t>(node)]->work.name + ")";
    }
  }
  std::string names;
  for (const auto& [index, name] : open) names += (names.empty() ? "" : ", ") + name;
  return names;
}

simt::NodeCounts count(const CUgraph_st& graph) {
  simt::NodeCounts counts;
  for (const auto& node : graph.nodes) {
    switch (node->work.kind) {
      case WorkKind::kKernel:
        ++counts.kernels;
        break;
      case WorkKind::kMemcpy:
        ++counts.memcpys;
        break;
      case WorkKind::kMemset:
        ++counts.memsets;
        break;
      case WorkKind::kEmpty:
        ++counts.empties;
        break;
    }
  }
  return counts;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
  SIMT_ENTER("cudaStreamBeginCapture");
  Handles& handles = Handles::instance();
  CUstream_st* const stream = handles.find(handle);
  Status& status = Status::instance();
  if (stream == nullptr) {
    return status.violate(cudaErrorInvalidResourceHandle,
                          "cudaStreamBeginCapture of a stream that does not exist");
  }
  if (stream->index < 0) {
    return status.violate(cudaErrorStreamCaptureUnsupported, "cudaStreamBeginCapture of the null stream");
  }
  if (stream->capture != nullptr) {
    return status.violate(cudaErrorIllegalState, "cudaStreamBeginCapture of a stream that is being captured");
  }
  auto capture = std::make_unique<Capture>();
  capture->origin = stream;
  capture->mode = mode;
  stream->capture = capture.get();
  stream->capture_tail.clear();
  handles.captures.insert(std::move(capture));
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
  SIMT_ENTER("cudaStreamEndCapture");
  *graph = nullptr;
  Handles& handles = Handles::instance();
  CUstream_st* const stream = handles.find(handle);
  Status& status = Status::instance();
  if (stream == nullptr || stream->capture == nullptr) {
    return status.violate(cudaErrorIllegalState,
                          "cudaStreamEndCapture of a stream that is not being captured");
  }
  Capture& capture = *stream->capture;
  if (capture.origin != stream) {
    capture.invalidated = true;
    return status.violate(cudaErrorStreamCaptureUnmatched,
                          "cudaStreamEndCapture of " + simt::runtime::name_of(*stream) + ", but " +
                              simt::runtime::name_of(*capture.origin) + " began the capture");
  }
  if (capture.invalidated) {
    simt::runtime::end(capture);
    return status.violate(cudaErrorStreamCaptureInvalidated, status.violation);
  }
  if (const std::string names = unjoined(capture); !names.empty()) {
    simt::runtime::end(capture);
    return status.violate(cudaErrorStreamCaptureUnjoined, "cudaStreamEndCapture: not joined: " + names);
  }
  auto made = std::make_unique<CUgraph_st>(std::move(capture.graph));
  simt::runtime::end(capture);
  *graph = made.get();
  handles.graphs[*graph] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* answer) {
  SIMT_ENTER("cudaStreamIsCapturing");
  CUstream_st* const stream = Handles::instance().find(handle);
  if (stream == nullptr) {
    return Status::instance().violate(cudaErrorInvalidResourceHandle,
                                      "cudaStreamIsCapturing of a stream that does not exist");
  }
  *answer = stream->capture == nullptr     ? cudaStreamCaptureStatusNone
            : stream->capture->invalidated ? cudaStreamCaptureStatusInvalidated
                                           : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  SIMT_ENTER("cudaGraphInstantiate");
  if (Handles::instance().graphs.count(graph) == 0) {
    return Status::instance().violate(cudaErrorInvalidValue,
                                      "cudaGraphInstantiate of a graph that does not exist");
  }
  auto made = std::make_shared<CUgraphExec_st>();
  made->graph = *graph;
  for (const auto& node : graph->nodes) {
    auto& lane = made->lanes[node->stream];
    if (lane == nullptr) lane = std::make_unique<simt::runtime::Lane>();
  }
  *executable = made.get();
  Handles::instance().executables[*executable] = std::move(made);
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
  SIMT_ENTER("cudaGraphLaunch");
  Handles& handles = Handles::instance();
  CUstream_st* const stream = handles.find(stream_handle);
  Status& status = Status::instance();
  const auto found = handles.executables.find(handle);
  if (stream == nullptr || found == handles.executables.end()) {
    return status.violate(cudaErrorInvalidValue,
                          "cudaGraphLaunch of a graph or on a stream that does not exist");
  }
  if (stream->capture != nullptr || stream->index < 0) {
    return status.violate(cudaErrorNotSupported, "cudaGraphLaunch inside a capture or on the null stream");
  }
  CUgraphExec_st& executable = *found->second;
  const auto& nodes = executable.graph.nodes;
  std::vector<OperationPtr> operations;
  std::vector<bool> is_leaf(nodes.size(), true);
  for (const auto& node : nodes) {
    auto operation = std::make_shared<Operation>();
    operation->stream = node->stream;
    operation->lane = executable.lanes.at(node->stream).get();
    operation->work = &node->work;
    operation->keeps = found->second;
    for (const int before : node->dependencies) {
      operation->dependencies.push_back(operations[static_cast<std::size_t>(before)]);
      is_leaf[static_cast<std::size_t>(before)] = false;
    }
    if (node->dependencies.empty()) {
      operation->dependencies = stream->tail;
      // A graph does not overlap with itself.
      operation->dependencies.insert(operation->dependencies.end(), executable.last.begin(),
                                     executable.last.end());
    }
    operations.push_back(operation);
  }
  if (operations.empty()) return cudaSuccess;
  executable.last.clear();
  for (std::size_t i = 0; i < operations.size(); ++i) {
    if (is_leaf[i]) executable.last.push_back(operations[i]);
  }
  for (const OperationPtr& operation : operations) Scheduler::instance().submit(operation);
  stream->tail = executable.last;
  executable.last_all = std::move(operations);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  SIMT_ENTER("cudaGraphExecDestroy");
  if (Handles::instance().executables.erase(executable) == 1) return cudaSuccess;
  return Status::instance().violate(cudaErrorInvalidValue,
                                    "cudaGraphExecDestroy of a graph that does not exist");
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  SIMT_ENTER("cudaGraphDestroy");
  if (Handles::instance().graphs.erase(graph) == 1) return cudaSuccess;
  return Status::instance().violate(cudaErrorInvalidValue, "cudaGraphDestroy of a graph that does not exist");
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* num_nodes) {
  SIMT_ENTER("cudaGraphGetNodes");
  if (nodes != nullptr) {
    *num_nodes = std::min(*num_nodes, graph->nodes.size());
    for (std::size_t i = 0; i < *num_nodes; ++i) nodes[i] = graph->nodes[i].get();
  } else {
    *num_nodes = graph->nodes.size();
  }
  return cudaSuccess;
}

cudaError_t cudaGraphNodeGetType(cudaGraphNode_t node, cudaGraphNodeType* type) {
  SIMT_ENTER("cudaGraphNodeGetType");
  switch (node->work.kind) {
    case WorkKind::kKernel:
      *type = cudaGraphNodeTypeKernel;
      break;
    case WorkKind::kMemcpy:
      *type = cudaGraphNodeTypeMemcpy;
      break;
    case WorkKind::kMemset:
      *type = cudaGraphNodeTypeMemset;
      break;
    case WorkKind::kEmpty:
      *type = cudaGraphNodeTypeEmpty;
      break;
  }
  return cudaSuccess;
}

}  // extern "C"

namespace simt {

NodeCounts count_nodes(cudaGraph_t graph) {
  return count(*graph);
}

NodeCounts count_nodes(cudaGraphExec_t executable) {
  return count(executable->graph);
}

std::vector<std::string> kernel_names(cudaGraphExec_t executable) {
  std::vector<std::string> names;
  for (const auto& node : executable->graph.nodes) {
    if (node->work.kind == WorkKind::kKernel) names.push_back(node->work.name);
  }
  return names;
}

}  // namespace simt
