// A fake of the part of the CUDA runtime that Cohort's host code uses: memory, streams, events, stream
// capture and graphs. Test binaries link it instead of cudart, so that the very same host sources run without
// a GPU.
//
// What it holds the host code to:
//   - Streams are queues. Nothing runs when it is enqueued; at a synchronisation point operations run in an
//     order that honours only what the program declared (order within a stream, events, graph edges). A
//     missing fork or join therefore gives wrong results, and in a ThreadSanitizer build a report: there an
//     operation has happens-before edges from its dependencies and from nothing else.
//   - Device memory is mapped for the device only: it faults when host code touches it, one past the end
//     faults after the next 256 bytes (at once under AddressSanitizer), and after cudaFree for ever. Fresh
//     device and pinned memory is 0xFF.
//   - A copy from pageable memory is staged when it is enqueued, one from or to pinned memory happens when it
//     runs. Wrong directions, ranges and dead pointers are errors.
//   - Inside a capture: allocation, synchronisation, use of the null stream, pageable copies and branches
//     that are not joined are errors, which invalidate the capture as CUDA's do.
//   - Device memory still allocated at exit ends the process with status 1.
//
// One host thread drives it, as it does the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace simt {

// Puts a kernel on a stream: queues it, or records it into the capture that the stream is part of; on the
// null stream it runs now. `run` may be called many times (a graph is replayed). It throws to report an error
// of the kernel: the next synchronising call rethrows it. `name` outlives the process. Returns what
// cudaLaunchKernel would: an error when a capture was invalidated or a failure was injected for "launch".
cudaError_t enqueue(cudaStream_t stream, const char* name, std::function<void()> run);

// In which of the allowed orders pending operations run.
enum class Order {
  kFifo,     // as enqueued, all of them: what a program that forgot its dependencies hopes for
  kForward,  // the oldest stream first, and only what is waited for
  kReverse,  // the youngest stream first, and only what is waited for
  kRandom    // any, seeded; sometimes more than what is waited for
};
struct StreamOrder {
  Order order = Order::kRandom;
  std::uint64_t seed = 1;
};
// The environment's SIMT_STREAMS (fifo, forward, reverse, random or random:SEED) until set; else random:1.
void set_order(StreamOrder order);
StreamOrder order();
std::string to_string(StreamOrder order);
// Orders for parametrised tests.
std::vector<StreamOrder> all_orders();

// The nth next call (1: the very next) of `function` fails with `error` and does nothing. Errors that poison
// a real context (illegal address, launch failure, ...) make every later call fail until reset().
void fail_next(const std::string& function, cudaError_t error, int nth = 1);

int default_device_count();

struct DeviceSetup {
  int count = default_device_count();          // 1, or the environment's SIMT_DEVICES
  cudaError_t count_status = cudaSuccess;      // what cudaGetDeviceCount answers
  std::size_t memory = std::size_t{16} << 30;  // of each
  int driver_version = 13000;
};
void set_devices(const DeviceSetup& setup);

// Back to the start: no pending work, no captures, no injected or sticky failures, counters at zero, default
// devices. Memory, streams, events and graphs stay.
void reset();

// The last broken rule in words ("cudaMalloc of 64 bytes inside the capture of stream 2"); empty: none since
// reset(). Everything here is also an error status of the call that broke it.
const std::string& last_violation();

// Calls of one function ("cudaMalloc", "launch") since reset().
int calls(const std::string& function);

struct NodeCounts {
  int kernels = 0, memcpys = 0, memsets = 0, empties = 0;
  bool operator==(const NodeCounts&) const = default;
};
NodeCounts count_nodes(cudaGraph_t graph);
NodeCounts count_nodes(cudaGraphExec_t exec);
// Names of a graph's kernels in the order of their capture.
std::vector<std::string> kernel_names(cudaGraphExec_t exec);

std::size_t device_bytes();                   // allocated now
int num_device_blocks();                      // blocks allocated now
std::size_t pinned_bytes();                   // allocated now
int num_pending();                            // operations not yet run
bool is_device_pointer(const void* pointer);  // in a live block

}  // namespace simt
