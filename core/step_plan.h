// One training step, run eagerly while the engine warms up, then replayed.
//
// Warm-up: two eager runs. The first lets vendor plans be chosen and arenas grow; the second must repeat the
// first's operations, shapes and addresses, or the step cannot be captured and the plan says which operation
// moved. Replay: on the CPU, and with ContextOptions::graph off, the function is called again; on a GPU the
// captured graph is launched and the function is never called again.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/context.h"
#include "kernels/branch.h"

namespace cohort {

class StepPlan {
 public:
  // `step` must begin with ctx.begin_step(), and read everything that changes from one step to the next from
  // device memory.
  StepPlan(Context& ctx, std::function<void()> step) : ctx_(ctx), step_(std::move(step)) {}
  ~StepPlan();
  StepPlan(const StepPlan&) = delete;
  StepPlan& operator=(const StepPlan&) = delete;

  // Runs one step. After an exception the context can go on, and the next call tries the same again.
  void run();

  bool ready() const { return state_ == State::kReady; }
  // Recorded differentiable operations of one step.
  int num_nodes() const { return static_cast<int>(trace_.size()); }
  // Empty (graph null) where steps are not captured, and before.
  const kernels::CapturedStep& captured() const { return captured_; }

 private:
  enum class State { kFirst, kSecond, kCapture, kReady };
  struct Recorded {
    const char* name;
    Shape shape;
    const void* data;
    bool operator==(const Recorded&) const = default;
  };
  std::vector<Recorded> record() const;
  void verify() const;
  bool captures() const;

  Context& ctx_;
  std::function<void()> step_;
  State state_ = State::kFirst;
  std::vector<Recorded> trace_;
  kernels::CapturedStep captured_;
};

}  // namespace cohort
