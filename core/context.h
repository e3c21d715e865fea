// Everything an operation needs besides its operands, in one argument: the device, the precision, and per
// branch a stream, a step arena, a workspace and a tape.
//
// A branch is one network's line of work inside a step. Branches run in parallel on a GPU and one after the
// other on the CPU; memory and tape are per branch, so that nothing is shared between parallel lines. Tensors
// cross branches only between join() and the next fork().
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/arena.h"
#include "core/device.h"
#include "core/tape.h"
#include "core/tensor.h"
#include "kernels/base/rehearsal.h"
#include "kernels/base/stream.h"
#include "kernels/conv2d.h"
#include "kernels/cpu/thread_pool.h"

namespace cohort {

struct ContextOptions {
  Device device = {};
  Precision precision = Precision::kF32;
  int num_threads = 0;   // of the CPU; 0: all available cores
  int num_branches = 1;  // besides the main one
  std::uint64_t seed = 0;
  bool graph = true;    // CUDA: a step is captured once and replayed; false: started anew every time
  bool poison = false;  // fill fresh and released memory with NaN
  // CUDA: no device is touched. Steps are gone through as ever, and what they would do is counted
  // (kernels/base/rehearsal.h): nothing is computed, and what is downloaded is zeros.
  bool rehearse = false;
};

// One layer as it ran, for `inspect model`, the plan table and the check of convolutions at start-up.
struct LayerRecord {
  std::string name;
  const char* type;
  Shape input, output;
  std::int64_t parameters = 0;
  std::int64_t macs = 0;  // multiply-accumulates of convolutions and linear layers, for one image
  kernels::Conv2dShape convolution = {};  // k = 0: the layer is none
};

// Where a backward kernel writes, and whether it overwrites or adds.
struct GradTarget {
  Tensor grad;
  GradMode mode = GradMode::kOverwrite;
  explicit operator bool() const { return grad.data != nullptr; }
};

class Context {
 public:
  static constexpr int kMain = 0;  // the branch of joined sections: inputs, losses, optimiser

  explicit Context(const ContextOptions& options);

  const ContextOptions& options() const { return options_; }
  Device device() const { return options_.device; }
  std::uint64_t seed() const { return options_.seed; }
  Precision precision() const { return options_.precision; }
  // Dtype of activations, and of statistics, losses and parameters.
  DType activation_dtype() const;
  DType parameter_dtype() const { return accumulator_of(activation_dtype()); }

  CpuStream cpu_stream() const { return {pool_.get()}; }
  CudaStream cuda_stream() const { return aside_ ? branches_[current_]->side : branches_[current_]->cuda; }

  // For copies beside the branches' work (CUDA): opened when first asked for, outside of captured steps.
  CudaStream copy_stream() const;

  int num_branches() const { return static_cast<int>(branches_.size()) - 1; }
  // Runs f with branch `index` (kMain or 1..num_branches) as the current one.
  template <class F>
  void on_branch(int index, F&& f) {
    struct Back {
      int& current;
      int previous;
      ~Back() { current = previous; }
    } const back{current_, std::exchange(current_, index)};
    f();
  }
  // All branches wait for the main one; the main one waits for all branches. No-ops on the CPU.
  void fork();
  void join();

  // Inside a node's backward(): runs f beside the current branch, which does not wait for it before
  // backward() returns. It starts when what the branch holds now is done, on a stream and with a workspace of
  // its own, and must write nothing that the rest of the backward pass reads. The gradient that the node
  // consumes is given back at the end only. On the CPU: f().
  template <class F>
  void aside(F&& f) {
    if (device().kind == DeviceKind::kCpu) return f();
    struct Back {
      bool& on;
      ~Back() { on = false; }
    } const back{aside_};
    start_aside();
    f();
  }

  // --- memory of the current branch ---
  Arena& persistent() { return persistent_; }
  Tensor persistent_tensor(const Shape& shape, DType dtype);  // zero-filled, lives as long as the context
  Tensor empty(const Shape& shape, DType dtype);              // until begin_step()
  Tensor variable(const Shape& shape, DType dtype);           // the same with a gradient slot, when recording
  Workspace workspace(std::size_t bytes);                     // until the next call on this branch
  // The value of x with a gradient of its own, collected on the current branch (when recording): what one
  // branch computed and several read.
  Tensor leaf(const Tensor& x);

  // --- the step ---
  void begin_step();  // resets step arenas and tapes
  bool recording() const { return recording_; }
  void set_recording(bool on) { recording_ = on; }

  template <class N>
  void push(const N& node) {
    branches_[current_]->tape.push(node);
  }
  // Runs the current branch's tape backwards, down to the node recorded after `first` others. Gradients of
  // its results must have been written by losses. A node whose result has got none since the last time is
  // passed over.
  void backward(std::size_t first = 0);
  // Recorded on the current branch so far.
  std::size_t num_recorded() const { return branches_[current_]->tape.nodes().size(); }

  // Where to write the gradient of x: false when x wants none. Every call counts as one write.
  GradTarget grad_target(const Tensor& x);
  // Inside a node's backward(): the gradient of its result.
  Tensor grad_of(const Tensor& y) const;
  // Hands the gradient buffer of y over to x when x has none yet and the dtypes agree; true when done, false:
  // the caller accumulates by a kernel. y's gradient must not be read afterwards.
  bool hand_over_grad(const Tensor& y, const Tensor& x);

  // The images of the step's batch that count, a () i32 in device memory: the leading ones, the rest is
  // padding and belongs to no statistic. Empty: all. Read by operations that sum over a batch (batch_norm)
  // when they are recorded.
  const Tensor& valid_images() const { return valid_images_; }
  void set_valid_images(const Tensor& valid) { valid_images_ = valid; }

  // Layers append to the log while one is set.
  std::vector<LayerRecord>* layer_log() const { return layer_log_; }
  void set_layer_log(std::vector<LayerRecord>* log) { layer_log_ = log; }

  // --- host access (outside of steps) ---
  void upload(const Tensor& to, const void* host);
  void download(void* host, const Tensor& from);
  void synchronize();

  // Null unless this context rehearses.
  const Rehearsal* rehearsal() const { return rehearsal_.get(); }

  std::size_t arena_bytes() const;      // reserved by all arenas together
  std::size_t step_bytes() const;       // peak of all step arenas and workspaces
  std::size_t workspace_bytes() const;  // the workspaces' part of it
  std::size_t persistent_bytes() const { return persistent_.bytes_in_use(); }
  std::size_t branch_step_bytes(int index) const;  // peak of one branch's

  // Kernels started and copies made so far (core/dispatch.h counts).
  std::int64_t num_device_operations() const { return device_operations_; }
  void count_device_operation() const { ++device_operations_; }

  // One line per recorded operation: name, shape, address. Equal texts mean that a step can be replayed.
  std::vector<const Node*> recorded_nodes() const;

 private:
  struct Scratch {
    explicit Scratch(MemorySource source) : arena(source, 0) {}
    Arena arena;
    std::size_t bytes = 0;
    void* data = nullptr;
  };
  struct Branch {
    Branch(MemorySource source, CudaStream stream, CudaStream side_stream);
    CudaStream cuda, side;
    Arena step;
    Scratch workspace, side_workspace;
    bool side_is_open = false;  // the side stream holds work that the branch has not waited for
    Tape tape;
  };
  void start_aside();
  void join_side();
  void give_back(const Node& node);

  ContextOptions options_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Rehearsal> rehearsal_;  // outlives the arenas
  Arena persistent_;
  std::vector<std::unique_ptr<Branch>> branches_;
  int current_ = kMain;
  bool aside_ = false;
  bool node_went_aside_ = false;  // the node whose backward() runs
  bool recording_ = true;
  std::vector<LayerRecord>* layer_log_ = nullptr;
  Tensor valid_images_;
  mutable std::int64_t device_operations_ = 0;
};

}  // namespace cohort
