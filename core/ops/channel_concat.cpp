#include "core/ops/channel_concat.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/dispatch.h"
#include "kernels/channel_concat.h"

namespace cohort::ops {
namespace {

using kernels::ChannelPart;

struct ChannelConcatNode final : Node {
  Tensor a, b;
  ChannelPart part_a, part_b;
  int groups;

  ChannelConcatNode(const char* name_, const Tensor& y_, const Tensor& a_, const Tensor& b_,
                    const ChannelPart& part_a_, const ChannelPart& part_b_, int groups_)
      : Node(name_, y_), a(a_), b(b_), part_a(part_a_), part_b(part_b_), groups(groups_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    backward(ctx, grad_y, a, part_a, 0);
    if (part_b.count > 0) backward(ctx, grad_y, b, part_b, part_a.count);
  }

  void backward(Context& ctx, const Tensor& grad_y, const Tensor& x, const ChannelPart& part,
                std::int64_t offset) const {
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    on_device(ctx, [&](auto stream) {
      kernels::channel_concat_backward(stream, {.dtype = x.dtype,
                                                .rows = y.count() / y.shape[3],
                                                .groups = groups,
                                                .channels = y.shape[3],
                                                .part = part,
                                                .offset = offset,
                                                .grad_y = grad_y.data,
                                                .grad_part = target.grad.data,
                                                .mode = target.mode});
    });
  }
};

ChannelPart part_of(const char* name, const ChannelSlice& slice) {
  const Shape& shape = slice.map.shape;
  if (shape.rank() != 4 || slice.first < 0 ||
      slice.first + std::max<std::int64_t>(slice.count, 1) > shape[3]) {
    internal_error(
        fmt::format("{}: {} channels from {} of {}", name, slice.count, slice.first, shape.to_string()));
  }
  return {.channels = shape[3],
          .first = slice.first,
          .count = slice.count < 0 ? shape[3] - slice.first : slice.count};
}

// b empty: there is none.
Tensor gather(Context& ctx, const char* name, const ChannelSlice& a, const ChannelSlice& b, int groups) {
  const ChannelPart part_a = part_of(name, a);
  const ChannelPart part_b = b.map.empty() ? ChannelPart{} : part_of(name, b);
  const Shape& shape = a.map.shape;
  const std::int64_t channels = part_a.count + part_b.count;
  if (part_b.count > 0) {
    const Shape& other = b.map.shape;
    if (other[0] != shape[0] || other[1] != shape[1] || other[2] != shape[2] || b.map.dtype != a.map.dtype) {
      internal_error(fmt::format("{}: {} {} beside {} {}", name, shape.to_string(), name_of(a.map.dtype),
                                 other.to_string(), name_of(b.map.dtype)));
    }
  }
  if (groups < 1 || channels % groups != 0) {
    internal_error(fmt::format("{}: {} channels in {} groups", name, channels, groups));
  }
  const Tensor y = ctx.variable({shape[0], shape[1], shape[2], channels}, a.map.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::channel_concat_forward(stream, {.dtype = y.dtype,
                                             .rows = y.count() / channels,
                                             .groups = groups,
                                             .part_a = part_a,
                                             .part_b = part_b,
                                             .a = a.map.data,
                                             .b = b.map.data,
                                             .y = y.data});
  });
  if (ctx.recording()) ctx.push(ChannelConcatNode(name, y, a.map, b.map, part_a, part_b, groups));
  return y;
}

}  // namespace

Tensor channel_concat(Context& ctx, const ChannelSlice& a, const ChannelSlice& b, int groups) {
  return gather(ctx, "channel_concat", a, b, groups);
}

Tensor channel_shuffle(Context& ctx, const Tensor& x, int groups) {
  return groups == 1 ? x : gather(ctx, "channel_shuffle", {x}, {}, groups);
}

Tensor channel_slice(Context& ctx, const ChannelSlice& slice) {
  return gather(ctx, "channel_slice", slice, {}, 1);
}

}  // namespace cohort::ops
