#include "core/context.h"

#include <cstring>

#include "core/dispatch.h"
#include "kernels/branch.h"
#include "kernels/memory.h"

namespace cohort {
namespace {

constexpr std::size_t kPersistentChunk = std::size_t{8} << 20;
constexpr std::size_t kStepChunk = std::size_t{32} << 20;

enum class Lane { kBranch, kSide };

CudaStream branch_stream(const ContextOptions& options, Rehearsal* rehearsal, int index,
                         Lane lane = Lane::kBranch) {
  if constexpr (kHasCuda) {
    if (options.device.kind == DeviceKind::kCuda) {
      const bool side = lane == Lane::kSide;
      CudaStream stream = rehearsal != nullptr
                              ? CudaStream{.branch = side ? -1 - index : index, .rehearsal = rehearsal}
                          : side ? kernels::open_side(options.device.index, index)
                                 : kernels::open_branch(options.device.index, index);
      stream.tf32 = options.precision == Precision::kTF32;
      return stream;
    }
  }
  (void)rehearsal;
  (void)index;
  (void)lane;
  return {};
}

MemorySource memory_source(const ContextOptions& options, ThreadPool* pool, Rehearsal* rehearsal, int index) {
  if (options.device.kind == DeviceKind::kCuda) return MemorySource(branch_stream(options, rehearsal, index));
  return MemorySource(CpuStream{pool});
}

}  // namespace

Context::Branch::Branch(MemorySource source, CudaStream stream, CudaStream side_stream)
    : cuda(stream), side(side_stream), step(source, kStepChunk), workspace(source), side_workspace(source) {}

Context::Context(const ContextOptions& options)
    : options_(options),
      pool_(std::make_unique<ThreadPool>(options.num_threads)),
      rehearsal_(options.rehearse ? std::make_unique<Rehearsal>() : nullptr),
      persistent_(memory_source(options, pool_.get(), rehearsal_.get(), kMain), kPersistentChunk) {
  if (!kHasCuda && options.device.kind == DeviceKind::kCuda) {
    throw Error(ErrorKind::kDevice, "this cohort was built without CUDA",
                "use --device cpu, or configure with -DCOHORT_CUDA=ON");
  }
  for (int index = 0; index <= options.num_branches; ++index) {
    const auto stream = [&](Lane lane) { return branch_stream(options, rehearsal_.get(), index, lane); };
    branches_.push_back(std::make_unique<Branch>(memory_source(options, pool_.get(), rehearsal_.get(), index),
                                                 stream(Lane::kBranch), stream(Lane::kSide)));
    branches_.back()->step.set_poison(options.poison);
  }
}

CudaStream Context::copy_stream() const {
  return branch_stream(options_, rehearsal_.get(), num_branches() + 1);
}

DType Context::activation_dtype() const {
  switch (options_.precision) {
    case Precision::kBF16:
      return DType::bf16;
    case Precision::kF64:
      return DType::f64;
    default:
      return DType::f32;
  }
}

void Context::fork() {
  on_device(*this, [&]<class Stream>(Stream) {
    if constexpr (std::is_same_v<Stream, CudaStream>) {
      for (std::size_t i = 1; i < branches_.size(); ++i)
        kernels::order(branches_[kMain]->cuda, branches_[i]->cuda);
    }
  });
}

void Context::join() {
  on_device(*this, [&]<class Stream>(Stream) {
    if constexpr (std::is_same_v<Stream, CudaStream>) {
      for (std::size_t i = 1; i < branches_.size(); ++i)
        kernels::order(branches_[i]->cuda, branches_[kMain]->cuda);
    }
  });
}

Tensor Context::persistent_tensor(const Shape& shape, DType dtype) {
  Tensor t{nullptr, shape, dtype, nullptr};
  t.data = persistent_.allocate(t.bytes());
  on_device(*this, [&](auto stream) { kernels::fill_zero(stream, t.data, t.bytes()); });
  return t;
}

Tensor Context::empty(const Shape& shape, DType dtype) {
  Tensor t{nullptr, shape, dtype, nullptr};
  t.data = branches_[current_]->step.allocate(t.bytes());
  return t;
}

Tensor Context::variable(const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  if (recording_) t.grad = branches_[current_]->tape.new_slot(dtype, current_);
  return t;
}

Tensor Context::leaf(const Tensor& x) {
  Tensor t = x.detached();
  if (recording_) t.grad = branches_[current_]->tape.new_slot(x.dtype, current_);
  return t;
}

Workspace Context::workspace(std::size_t bytes) {
  Scratch& scratch = aside_ ? branches_[current_]->side_workspace : branches_[current_]->workspace;
  if (bytes > scratch.bytes) {
    // Grows during warm-up only. The old block stays reserved: a captured step may not exist yet, but kernels
    // of this step may still be using it.
    scratch.data = scratch.arena.allocate(bytes);
    scratch.bytes = bytes;
  }
  return {static_cast<std::byte*>(scratch.data), bytes};
}

void Context::start_aside() {
  check(!aside_, "context: work aside inside work aside");
  Branch& branch = *branches_[current_];
  if constexpr (kHasCuda) kernels::order(branch.cuda, branch.side);
  branch.side_is_open = true;
  node_went_aside_ = true;
  aside_ = true;
}

void Context::join_side() {
  Branch& branch = *branches_[current_];
  if (!branch.side_is_open) return;
  if constexpr (kHasCuda) kernels::order(branch.side, branch.cuda);
  branch.side_is_open = false;
}

void Context::begin_step() {
  for (auto& branch : branches_) {
    branch->step.reset();
    branch->tape.clear();
  }
}

void Context::backward(std::size_t first) {
  Branch& branch = *branches_[current_];
  const std::vector<Node*>& nodes = branch.tape.nodes();
  std::vector<const Node*> held;  // their gradients are read aside
  for (std::size_t i = nodes.size(); i > first; --i) {
    Node* const node = nodes[i - 1];
    GradSlot* slot = node->y.grad;
    if (slot == nullptr || !slot->written) continue;  // nothing depends on this result
    node_went_aside_ = false;
    node->backward(*this);
    slot->written = false;
    if (node_went_aside_) {
      held.push_back(node);
    } else {
      give_back(*node);
    }
  }
  join_side();
  for (const Node* node : held) give_back(*node);
}

void Context::give_back(const Node& node) {
  GradSlot& slot = *node.y.grad;
  if (slot.data == nullptr || slot.persistent) return;
  branches_[slot.branch]->step.recycle(slot.data,
                                       static_cast<std::size_t>(node.y.count()) * size_of(slot.dtype));
  slot.data = nullptr;
}

GradTarget Context::grad_target(const Tensor& x) {
  GradSlot* slot = x.grad;
  if (slot == nullptr) return {};
  if (slot->data == nullptr) {
    slot->data =
        branches_[current_]->step.allocate(static_cast<std::size_t>(x.count()) * size_of(slot->dtype));
  }
  const GradMode mode = slot->written ? GradMode::kAccumulate : GradMode::kOverwrite;
  slot->written = true;
  return {{slot->data, x.shape, slot->dtype, nullptr}, mode};
}

Tensor Context::grad_of(const Tensor& y) const {
  check(y.grad != nullptr && y.grad->data != nullptr, "tape: gradient read before it was written");
  return {y.grad->data, y.shape, y.grad->dtype, nullptr};
}

bool Context::hand_over_grad(const Tensor& y, const Tensor& x) {
  if (x.grad == nullptr) return true;
  if (x.grad->data != nullptr || x.grad->written || x.grad->dtype != y.grad->dtype || y.grad->persistent)
    return false;
  x.grad->data = y.grad->data;
  x.grad->written = true;
  y.grad->data = nullptr;
  return true;
}

void Context::upload(const Tensor& to, const void* host) {
  on_device(*this, [&](auto stream) { kernels::copy_to_device(stream, to.data, host, to.bytes()); });
}

void Context::download(void* host, const Tensor& from) {
  on_device(*this, [&](auto stream) { kernels::copy_to_host(stream, host, from.data, from.bytes()); });
}

void Context::synchronize() {
  on_device(*this, [&](auto stream) { kernels::synchronize(stream); });
}

std::size_t Context::arena_bytes() const {
  std::size_t bytes = persistent_.reserved_bytes();
  for (const auto& branch : branches_)
    bytes += branch->step.reserved_bytes() + branch->workspace.arena.reserved_bytes() +
             branch->side_workspace.arena.reserved_bytes();
  return bytes;
}

std::size_t Context::step_bytes() const {
  std::size_t bytes = 0;
  for (const auto& branch : branches_) bytes += branch->step.peak_bytes();
  return bytes + workspace_bytes();
}

std::size_t Context::workspace_bytes() const {
  std::size_t bytes = 0;
  for (const auto& branch : branches_)
    bytes += branch->workspace.arena.peak_bytes() + branch->side_workspace.arena.peak_bytes();
  return bytes;
}

std::size_t Context::branch_step_bytes(int index) const {
  const Branch& branch = *branches_[static_cast<std::size_t>(index)];
  return branch.step.peak_bytes() + branch.workspace.arena.peak_bytes() +
         branch.side_workspace.arena.peak_bytes();
}

std::vector<const Node*> Context::recorded_nodes() const {
  std::vector<const Node*> all;
  for (const auto& branch : branches_)
    all.insert(all.end(), branch->tape.nodes().begin(), branch->tape.nodes().end());
  return all;
}

}  // namespace cohort
