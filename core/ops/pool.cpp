#include "core/ops/pool.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "kernels/pool.h"

namespace cohort::ops {
namespace {

using kernels::PoolShape;
using kernels::PoolWindow;

struct MaxPoolNode final : Node {
  Tensor x, argmax;
  PoolShape shape;
  PoolWindow window;

  MaxPoolNode(const Tensor& y_, const Tensor& x_, const Tensor& argmax_, const PoolShape& shape_,
              const PoolWindow& window_)
      : Node("max_pool", y_), x(x_), argmax(argmax_), shape(shape_), window(window_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    on_device(ctx, [&](auto stream) {
      kernels::max_pool_backward(stream, {.dtype = x.dtype,
                                          .shape = shape,
                                          .window = window,
                                          .grad_y = grad_y.data,
                                          .argmax = argmax.as<std::int32_t>(),
                                          .grad_x = target.grad.data,
                                          .mode = target.mode});
    });
  }
};

struct AvgPoolNode final : Node {
  Tensor x;
  PoolShape shape;
  PoolWindow window;
  bool count_include_pad;

  AvgPoolNode(const Tensor& y_, const Tensor& x_, const PoolShape& shape_, const PoolWindow& window_,
              bool count_include_pad_)
      : Node("avg_pool", y_), x(x_), shape(shape_), window(window_), count_include_pad(count_include_pad_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    on_device(ctx, [&](auto stream) {
      kernels::avg_pool_backward(stream, {.dtype = x.dtype,
                                          .shape = shape,
                                          .window = window,
                                          .count_include_pad = count_include_pad,
                                          .grad_y = grad_y.data,
                                          .grad_x = target.grad.data,
                                          .mode = target.mode});
    });
  }
};

struct AdaptiveAvgPoolNode final : Node {
  Tensor x;
  PoolShape shape;
  bool global;

  AdaptiveAvgPoolNode(const char* name_, const Tensor& y_, const Tensor& x_, const PoolShape& shape_,
                      bool global_)
      : Node(name_, y_), x(x_), shape(shape_), global(global_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    const kernels::AdaptiveAvgPoolBackwardArgs args{.dtype = x.dtype,
                                                    .shape = shape,
                                                    .grad_y = grad_y.data,
                                                    .grad_x = target.grad.data,
                                                    .mode = target.mode};
    on_device(ctx, [&](auto stream) {
      if (global) return kernels::global_avg_pool_backward(stream, args);
      return kernels::adaptive_avg_pool_backward(stream, args);
    });
  }
};

// The output side; 0 where no window fits.
std::int64_t out_side(std::int64_t side, const PoolOptions& o) {
  const std::int64_t room = side + 2 * o.padding - o.size;
  if (room < 0 && !(o.ceil_mode && room > -o.stride)) return 0;
  std::int64_t out = (o.ceil_mode ? (room + o.stride - 1) / o.stride : room / o.stride) + 1;
  if ((out - 1) * o.stride - o.padding >= side) --out;  // a window that starts behind the map
  return out;
}

PoolShape map_shape(const char* name, const Tensor& x) {
  if (x.shape.rank() != 4 || x.count() == 0) {
    internal_error(fmt::format("{}: input {} is not (N,H,W,C)", name, x.shape.to_string()));
  }
  return {.batch = x.shape[0], .height = x.shape[1], .width = x.shape[2], .channels = x.shape[3]};
}

PoolShape window_shape(const char* name, const Tensor& x, const PoolOptions& o) {
  PoolShape shape = map_shape(name, x);
  if (o.size >= 1 && o.stride >= 1 && o.padding >= 0 && 2 * o.padding <= o.size) {
    shape.out_height = out_side(shape.height, o);
    shape.out_width = out_side(shape.width, o);
  }
  if (shape.out_height < 1 || shape.out_width < 1) {
    internal_error(fmt::format("{}: input {}, size {}, stride {}, padding {}", name, x.shape.to_string(),
                               o.size, o.stride, o.padding));
  }
  return shape;
}

Tensor output(Context& ctx, const Tensor& x, const PoolShape& s) {
  return ctx.variable({s.batch, s.out_height, s.out_width, s.channels}, x.dtype);
}

}  // namespace

Tensor max_pool(Context& ctx, const Tensor& x, const PoolOptions& options) {
  const PoolShape shape = window_shape("max_pool", x, options);
  const PoolWindow window{options.size, options.stride, options.padding};
  const Tensor y = output(ctx, x, shape);
  const Tensor argmax = ctx.recording() ? ctx.empty(y.shape, DType::i32) : Tensor{};
  on_device(ctx, [&](auto stream) {
    kernels::max_pool_forward(stream, {.dtype = x.dtype,
                                       .shape = shape,
                                       .window = window,
                                       .x = x.data,
                                       .y = y.data,
                                       .argmax = static_cast<std::int32_t*>(argmax.data)});
  });
  if (ctx.recording()) ctx.push(MaxPoolNode(y, x, argmax, shape, window));
  return y;
}

Tensor avg_pool(Context& ctx, const Tensor& x, const PoolOptions& options) {
  const PoolShape shape = window_shape("avg_pool", x, options);
  const PoolWindow window{options.size, options.stride, options.padding};
  const Tensor y = output(ctx, x, shape);
  on_device(ctx, [&](auto stream) {
    kernels::avg_pool_forward(stream, {.dtype = x.dtype,
                                       .shape = shape,
                                       .window = window,
                                       .count_include_pad = options.count_include_pad,
                                       .x = x.data,
                                       .y = y.data});
  });
  if (ctx.recording()) ctx.push(AvgPoolNode(y, x, shape, window, options.count_include_pad));
  return y;
}

Tensor adaptive_avg_pool(Context& ctx, const Tensor& x, int out_h, int out_w) {
  PoolShape shape = map_shape("adaptive_avg_pool", x);
  if (out_h < 1 || out_w < 1) {
    internal_error(
        fmt::format("adaptive_avg_pool: input {}, output {} x {}", x.shape.to_string(), out_h, out_w));
  }
  shape.out_height = out_h;
  shape.out_width = out_w;
  const Tensor y = output(ctx, x, shape);
  on_device(ctx, [&](auto stream) {
    kernels::adaptive_avg_pool_forward(stream, {.dtype = x.dtype, .shape = shape, .x = x.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(AdaptiveAvgPoolNode("adaptive_avg_pool", y, x, shape, false));
  return y;
}

Tensor global_avg_pool(Context& ctx, const Tensor& x) {
  PoolShape shape = map_shape("global_avg_pool", x);
  shape.out_height = shape.out_width = 1;
  const Tensor y = ctx.variable({shape.batch, shape.channels}, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::global_avg_pool_forward(stream, {.dtype = x.dtype, .shape = shape, .x = x.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(AdaptiveAvgPoolNode("global_avg_pool", y, x, shape, true));
  return y;
}

}  // namespace cohort::ops
