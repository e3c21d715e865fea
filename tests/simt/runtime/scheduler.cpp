#include "simt/runtime/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <utility>

#include "simt/runtime/memory.h"

namespace simt::runtime {
namespace {

StreamOrder parse_order(const std::string& text) {
  if (text == "fifo") return {Order::kFifo, 0};
  if (text == "forward") return {Order::kForward, 0};
  if (text == "reverse") return {Order::kReverse, 0};
  if (text == "random") return {Order::kRandom, 1};
  if (text.rfind("random:", 0) == 0) return {Order::kRandom, std::strtoull(text.c_str() + 7, nullptr, 10)};
  throw std::runtime_error("SIMT_STREAMS is '" + text +
                           "': use fifo, forward, reverse, random or random:SEED");
}

bool all_done(const std::vector<OperationPtr>& operations) {
  return std::all_of(operations.begin(), operations.end(), [](const OperationPtr& o) { return o->done; });
}

}  // namespace

Scheduler& Scheduler::instance() {
  static Scheduler* const scheduler = new Scheduler;
  return *scheduler;
}

Scheduler::Scheduler() {
  const char* const text = std::getenv("SIMT_STREAMS");
  set_order(text == nullptr ? StreamOrder{} : parse_order(text));
}

void Scheduler::set_order(StreamOrder order) {
  order_ = order;
  random_.seed(order.seed);
}

void Scheduler::submit(const OperationPtr& operation) {
  operation->sequence = next_sequence_++;
  for (const OperationPtr& dependency : operation->dependencies) {
    if (dependency->done) continue;
    ++operation->unmet;
    dependency->dependents.push_back(operation.get());
  }
  publish(&operation->enqueued);
  pending_[operation->sequence] = operation;
  if (operation->unmet == 0) ready_[operation->sequence] = operation.get();
}

std::set<std::uint64_t> Scheduler::needed_for(const std::vector<OperationPtr>& targets) const {
  std::set<std::uint64_t> needed;
  std::vector<const Operation*> open;
  const auto visit = [&](const OperationPtr& o) {
    if (!o->done && needed.insert(o->sequence).second) open.push_back(o.get());
  };
  for (const OperationPtr& target : targets) visit(target);
  while (!open.empty()) {
    const Operation* operation = open.back();
    open.pop_back();
    for (const OperationPtr& dependency : operation->dependencies) visit(dependency);
  }
  return needed;
}

void Scheduler::run(Operation& operation) {
  const auto job = [this, &operation] {
    receive(&operation.enqueued);
    for (const OperationPtr& dependency : operation.dependencies) receive(&dependency->finished);
    try {
      if (operation.work->run) operation.work->run();
    } catch (...) {
      publish(&failure_);  // the exception goes to the host
      throw;
    }
    operation.own_work.reset();  // here: the host has not seen the end of this operation
    publish(&operation.finished);
  };
  operation.lane->run(job);
}

bool Scheduler::run_one(const std::set<std::uint64_t>* allowed) {
  std::vector<Operation*> choices;
  for (const auto& [sequence, operation] : ready_) {
    if (allowed == nullptr || allowed->count(sequence) != 0) choices.push_back(operation);
  }
  if (choices.empty()) return false;
  const auto by_stream = [](const Operation* a, const Operation* b) { return a->stream < b->stream; };
  Operation* choice = choices.front();  // the oldest
  switch (order_.order) {
    case Order::kFifo:
      break;
    case Order::kForward:
      choice = *std::min_element(choices.begin(), choices.end(), by_stream);
      break;
    case Order::kReverse:
      choice = *std::max_element(choices.begin(), choices.end(), by_stream);
      break;
    case Order::kRandom:
      choice = choices[random_() % choices.size()];
      break;
  }
  const OperationPtr operation = pending_.at(choice->sequence);
  ready_.erase(operation->sequence);
  pending_.erase(operation->sequence);
  try {
    const DeviceTurn turn;
    run(*operation);
  } catch (...) {
    failure_ = std::current_exception();
  }
  operation->done = true;
  operation->dependencies.clear();
  for (Operation* dependent : operation->dependents) {
    if (--dependent->unmet == 0) ready_[dependent->sequence] = dependent;
  }
  operation->dependents.clear();
  operation->keeps.reset();
  if (failure_) abandon();
  return true;
}

void Scheduler::drain(const std::vector<OperationPtr>* targets) {
  const bool random = order_.order == Order::kRandom;
  const bool everything =
      targets == nullptr || order_.order == Order::kFifo || (random && random_() % 2 == 0);
  std::set<std::uint64_t> needed;
  if (!everything) needed = needed_for(*targets);
  const DeviceTurn turn;
  const bool stops_early = random && targets != nullptr;
  while (!(stops_early && all_done(*targets)) && run_one(everything ? nullptr : &needed)) {
  }
}

void Scheduler::wait_for(const std::vector<OperationPtr>& targets) {
  if (!all_done(targets)) drain(&targets);
  for (const OperationPtr& target : targets) receive(&target->finished);
}

void Scheduler::wait_for_all() {
  std::vector<OperationPtr> all;
  for (const auto& [sequence, operation] : pending_) all.push_back(operation);
  drain(nullptr);
  for (const OperationPtr& operation : all) receive(&operation->finished);
}

bool Scheduler::poll(const std::vector<OperationPtr>& targets) {
  if (all_done(targets)) {
    for (const OperationPtr& target : targets) receive(&target->finished);
    return true;
  }
  const std::set<std::uint64_t> needed = needed_for(targets);
  run_one(&needed);
  return false;
}

void Scheduler::rethrow() {
  if (!failure_) return;
  receive(&failure_);
  std::rethrow_exception(std::exchange(failure_, nullptr));
}

void Scheduler::abandon() {
  for (const auto& [sequence, operation] : pending_) {
    operation->done = true;
    operation->dependencies.clear();
    operation->dependents.clear();
    operation->keeps.reset();
  }
  pending_.clear();
  ready_.clear();
}

}  // namespace simt::runtime
