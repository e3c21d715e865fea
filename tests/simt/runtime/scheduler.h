// Operations that were enqueued and have not run, and the order in which they do.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "simt/runtime/lanes.h"
#include "simt/runtime/runtime.h"

namespace simt::runtime {

enum class WorkKind { kKernel, kMemcpy, kMemset, kEmpty };

// What one operation does, each time it is done.
struct Work {
  WorkKind kind = WorkKind::kEmpty;
  std::string name;
  std::function<void()> run;
};

struct Operation {
  std::uint64_t sequence = 0;
  int stream = 0;  // where it was enqueued, or captured: the key of the orders
  Lane* lane = nullptr;
  const Work* work = nullptr;
  std::unique_ptr<Work> own_work;                        // of an operation that is not part of a graph
  std::shared_ptr<void> keeps;                           // the graph that work and lane belong to
  std::vector<std::shared_ptr<Operation>> dependencies;  // until done
  std::vector<Operation*> dependents;
  int unmet = 0;
  bool done = false;
  char enqueued = 0, finished = 0;  // tokens of the race detector
};
using OperationPtr = std::shared_ptr<Operation>;

class Scheduler {
 public:
  static Scheduler& instance();

  // From here on the operation runs whenever its dependencies are done.
  void submit(const OperationPtr& operation);

  // Runs at least these and what they need; what else, and in which order, is up to the order in force. The
  // host's line of execution then comes after them.
  void wait_for(const std::vector<OperationPtr>& targets);
  void wait_for_all();
  // One step towards them, for a host that polls; true when they were done before.
  bool poll(const std::vector<OperationPtr>& targets);

  // Rethrows what a kernel threw, once. Until then nothing is enqueued or run.
  void rethrow();
  bool failed() const { return failure_ != nullptr; }
  // Forgets everything pending.
  void abandon();

  void set_order(StreamOrder order);
  StreamOrder order() const { return order_; }
  int num_pending() const { return static_cast<int>(pending_.size()); }

 private:
  Scheduler();
  std::set<std::uint64_t> needed_for(const std::vector<OperationPtr>& targets) const;
  // Runs one ready operation, of `allowed` if that is not null; false: there was none.
  bool run_one(const std::set<std::uint64_t>* allowed);
  void run(Operation& operation);
  void drain(const std::vector<OperationPtr>* targets);

  std::map<std::uint64_t, OperationPtr> pending_;
  std::map<std::uint64_t, Operation*> ready_;
  std::uint64_t next_sequence_ = 0;
  std::exception_ptr failure_;
  StreamOrder order_;
  std::mt19937_64 random_;
};

}  // namespace simt::runtime
