#include "core/parameter.h"

#include <vector>

namespace cohort {
namespace {

std::int64_t padded(std::int64_t count) {
  return (count + 15) / 16 * 16;
}

void* offset_pointer(const Tensor& block, std::int64_t offset) {
  return static_cast<std::byte*>(block.data) + static_cast<std::size_t>(offset) * size_of(block.dtype);
}

}  // namespace

Parameter* ParameterSet::add(std::string name, const Shape& shape, ParameterKind kind) {
  Parameter p;
  p.name = std::move(name);
  p.shape = shape;
  p.kind = kind;
  parameters_.push_back(std::move(p));
  return &parameters_.back();
}

Buffer* ParameterSet::add_buffer(std::string name, const Shape& shape) {
  buffers_.push_back({std::move(name), shape, {}});
  return &buffers_.back();
}

void ParameterSet::materialize(Context& ctx) {
  std::int64_t total = 0;
  for (const Parameter& p : parameters_) total += padded(p.shape.count());
  const DType dtype = ctx.parameter_dtype();
  values_ = ctx.persistent_tensor({total}, dtype);
  grads_ = ctx.persistent_tensor({total}, dtype);
  momenta_ = ctx.persistent_tensor({total}, dtype);
  if (ctx.precision() == Precision::kBF16) shadow_ = ctx.persistent_tensor({total}, DType::bf16);

  std::int64_t offset = 0;
  for (Parameter& p : parameters_) {
    slots_.push_back({offset_pointer(grads_, offset), dtype, false, true, 0});
    p.value = {offset_pointer(values_, offset), p.shape, dtype, &slots_.back()};
    p.grad = {offset_pointer(grads_, offset), p.shape, dtype, nullptr};
    p.compute = p.value;
    if (!shadow_.empty() && p.kind != ParameterKind::kVector) {
      p.compute = {offset_pointer(shadow_, offset), p.shape, DType::bf16, &slots_.back()};
    }
    offset += padded(p.shape.count());
  }
  for (Buffer& b : buffers_) b.value = ctx.persistent_tensor(b.shape, dtype);
}

void ParameterSet::reset_grads() {
  for (GradSlot& slot : slots_) slot.written = false;
}

void ParameterSet::refresh_shadow(Context& ctx) {
  if (shadow_.empty()) return;
  std::vector<float> master(static_cast<std::size_t>(values_.count()));
  ctx.download(master.data(), values_);
  std::vector<bf16> rounded(master.begin(), master.end());
  ctx.upload(shadow_, rounded.data());
}

std::int64_t ParameterSet::num_parameters() const {
  std::int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.count();
  return n;
}

}  // namespace cohort
