#include "core/parameter.h"

#include <vector>

#include "core/dispatch.h"
#include "kernels/base/philox.h"
#include "kernels/pointwise.h"

namespace cohort {
namespace {

std::int64_t padded(std::int64_t count) {
  return (count + 15) / 16 * 16;
}

void* offset_pointer(const Tensor& block, std::int64_t offset) {
  return static_cast<std::byte*>(block.data) + static_cast<std::size_t>(offset) * size_of(block.dtype);
}

// Rounds to the dtype of `to` on the way.
void write_values(Context& ctx, const Tensor& to, const std::vector<double>& values) {
  if (to.dtype == DType::f64) {
    ctx.upload(to, values.data());
  } else {
    const std::vector<float> rounded(values.begin(), values.end());
    ctx.upload(to, rounded.data());
  }
}

void copy(Context& ctx, const Tensor& from, const Tensor& to) {
  check(from.dtype == to.dtype && from.count() == to.count(), "parameters: a copy of another layout");
  on_device(ctx, [&](auto stream) {
    kernels::scale(stream, {.dtype = from.dtype, .count = from.count(), .x = from.data, .y = to.data});
  });
}

}  // namespace

Parameter* ParameterSet::add(std::string name, const Shape& shape, ParameterKind kind, Initializer init) {
  Parameter p;
  p.name = std::move(name);
  p.shape = shape;
  p.kind = kind;
  p.init = init;
  parameters_.push_back(std::move(p));
  return &parameters_.back();
}

Buffer* ParameterSet::add_buffer(std::string name, const Shape& shape, double init) {
  buffers_.push_back({std::move(name), shape, init, {}});
  return &buffers_.back();
}

void ParameterSet::share(const ParameterSet& owner, std::size_t parameters, std::size_t buffers) {
  check(parameters <= parameters_.size() && parameters <= owner.parameters_.size() &&
            buffers <= buffers_.size() && buffers <= owner.buffers_.size(),
        "parameters: more shared than there are");
  for (std::size_t i = 0; i < parameters; ++i) {
    check(parameters_[i].shape == owner.parameters_[i].shape, "parameters: shared in another shape");
    parameters_[i] = owner.parameters_[i];
    parameters_[i].shared = true;
  }
  for (std::size_t i = 0; i < buffers; ++i) {
    buffers_[i] = owner.buffers_[i];
    buffers_[i].shared = true;
  }
}

void ParameterSet::materialize(Context& ctx) {
  lay_out(ctx, /*trained=*/true);
}

void ParameterSet::materialize_untrained(Context& ctx) {
  lay_out(ctx, /*trained=*/false);
}

void ParameterSet::lay_out(Context& ctx, bool trained) {
  std::int64_t total = 0;
  for (const Parameter& p : parameters_) total += p.shared ? 0 : padded(p.shape.count());
  const DType dtype = ctx.parameter_dtype();
  values_ = ctx.persistent_tensor({total}, dtype);
  if (trained) {
    grads_ = ctx.persistent_tensor({total}, dtype);
    momenta_ = ctx.persistent_tensor({total}, dtype);
  }
  if (ctx.precision() == Precision::kBF16) shadow_ = ctx.persistent_tensor({total}, DType::bf16);

  std::int64_t offset = 0;
  for (Parameter& p : parameters_) {
    if (p.shared) continue;
    GradSlot* slot = nullptr;
    if (trained) {
      slot = &slots_.emplace_back(GradSlot{offset_pointer(grads_, offset), dtype, false, true, 0});
      p.grad = {offset_pointer(grads_, offset), p.shape, dtype, nullptr};
    }
    p.value = {offset_pointer(values_, offset), p.shape, dtype, slot};
    p.compute = p.value;
    if (!shadow_.empty() && p.kind != ParameterKind::kVector) {
      p.compute = {offset_pointer(shadow_, offset), p.shape, DType::bf16, slot};
    }
    offset += padded(p.shape.count());
  }
  for (Buffer& b : buffers_) {
    if (!b.shared) b.value = ctx.persistent_tensor(b.shape, dtype);
  }
}

void ParameterSet::initialize(Context& ctx, std::uint64_t seed, std::uint32_t member) {
  std::uint32_t index = 0;
  for (const Parameter& p : parameters_) {
    Rng rng({.seed = seed, .purpose = RngPurpose::kInit, .member = member, .tag = index++});
    if (p.shared) continue;
    std::vector<double> values(static_cast<std::size_t>(p.shape.count()));
    for (double& v : values) {
      switch (p.init.kind) {
        case Initializer::Kind::kConstant:
          v = p.init.scale;
          break;
        case Initializer::Kind::kNormal:
          v = p.init.scale * static_cast<double>(rng.normal());
          break;
        case Initializer::Kind::kUniform:
          v = p.init.scale * (2.0 * static_cast<double>(rng.uniform()) - 1.0);
          break;
      }
    }
    write_values(ctx, p.value, values);
  }
  for (const Buffer& b : buffers_) {
    if (b.shared) continue;
    write_values(ctx, b.value, std::vector<double>(static_cast<std::size_t>(b.shape.count()), b.init));
  }
  refresh_shadow(ctx);
}

void ParameterSet::copy_from(Context& ctx, const ParameterSet& other) {
  copy(ctx, other.values_, values_);
  if (!shadow_.empty()) copy(ctx, other.shadow_, shadow_);
  check(buffers_.size() == other.buffers_.size(), "parameters: a copy of another network");
  for (std::size_t i = 0; i < buffers_.size(); ++i) copy(ctx, other.buffers_[i].value, buffers_[i].value);
}

void ParameterSet::reset_grads() {
  for (GradSlot& slot : slots_) slot.written = false;
}

void ParameterSet::collect_grads_in(const Tensor& block) {
  check(block.dtype == grads_.dtype && block.count() == grads_.count(),
        "parameters: gradients go to a block like their own");
  auto slot = slots_.begin();
  for (const Parameter& p : parameters_) {
    if (p.shared) continue;
    const auto offset =
        static_cast<const std::byte*>(p.value.data) - static_cast<const std::byte*>(values_.data);
    slot->data = static_cast<std::byte*>(block.data) + offset;
    slot->written = false;
    ++slot;
  }
}

void ParameterSet::refresh_shadow(Context& ctx) {
  if (shadow_.empty()) return;
  std::vector<float> master(static_cast<std::size_t>(values_.count()));
  ctx.download(master.data(), values_);
  const std::vector<bf16> rounded(master.begin(), master.end());
  ctx.upload(shadow_, rounded.data());
}

std::int64_t ParameterSet::num_parameters() const {
  std::int64_t n = 0;
  for (const Parameter& p : parameters_) n += p.shape.count();
  return n;
}

}  // namespace cohort
