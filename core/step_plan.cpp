#include "core/step_plan.h"

#include <fmt/core.h>

#include <cstring>

#include "core/dispatch.h"

namespace cohort {

StepPlan::~StepPlan() {
  on_device(ctx_, [&](auto stream) { kernels::release(stream, captured_); });
}

std::vector<StepPlan::Recorded> StepPlan::record() const {
  std::vector<Recorded> trace;
  for (const Node* node : ctx_.recorded_nodes()) trace.push_back({node->name, node->y.shape, node->y.data});
  return trace;
}

void StepPlan::verify() const {
  const std::vector<Recorded> now = record();
  if (now == trace_) return;
  std::size_t i = 0;
  while (i < now.size() && i < trace_.size() && now[i] == trace_[i]) ++i;
  if (i == now.size() || i == trace_.size()) {
    internal_error(fmt::format("step plan: {} operations in the first step, {} in the second", trace_.size(),
                               now.size()));
  }
  internal_error(
      fmt::format("step plan: operation {} is {} {} at {} in the first step, {} {} at {} in the second", i,
                  trace_[i].name, trace_[i].shape.to_string(), trace_[i].data, now[i].name,
                  now[i].shape.to_string(), now[i].data));
}

bool StepPlan::captures() const {
  return ctx_.device().kind == DeviceKind::kCuda && ctx_.options().graph;
}

void StepPlan::run() {
  switch (state_) {
    case State::kFirst:
      step_();
      trace_ = record();
      state_ = State::kSecond;
      return;
    case State::kSecond:
      step_();
      verify();
      state_ = captures() ? State::kCapture : State::kReady;
      return;
    case State::kCapture:
      on_device(ctx_, [&](auto stream) {
        kernels::begin_capture(stream);
        try {
          step_();
          captured_ = kernels::end_capture(stream);
        } catch (...) {
          kernels::abort_capture(stream);
          throw;
        }
        kernels::launch(stream, captured_);
      });
      state_ = State::kReady;
      return;
    case State::kReady:
      if (captures()) {
        on_device(ctx_, [&](auto stream) { kernels::launch(stream, captured_); });
      } else {
        step_();
      }
      return;
  }
}

}  // namespace cohort
