#include "core/ops/pointwise.h"

#include <fmt/format.h>

#include "core/dispatch.h"
#include "kernels/pointwise.h"

namespace cohort::ops {
namespace {

// Of y = f(x): the gradient of y, and where that of x goes, which may be the same buffer.
struct ElementwiseGradients {
  Tensor grad_y;
  GradTarget grad_x;

  ElementwiseGradients(Context& ctx, const Tensor& y, const Tensor& x) : grad_y(ctx.grad_of(y)) {
    const bool took_over = ctx.hand_over_grad(y, x);
    grad_x = took_over ? GradTarget{grad_y, GradMode::kOverwrite} : ctx.grad_target(x);
  }
};

struct ReluNode final : Node {
  Tensor x;

  ReluNode(const Tensor& y_, const Tensor& x_) : Node("relu", y_), x(x_) {}

  void backward(Context& ctx) override {
    if (x.grad == nullptr) return;
    const ElementwiseGradients at(ctx, y, x);
    on_device(ctx, [&](auto stream) {
      kernels::relu_backward(stream, {.dtype = x.dtype,
                                      .count = x.count(),
                                      .y = y.data,
                                      .grad_y = at.grad_y.data,
                                      .grad_x = at.grad_x.grad.data,
                                      .mode = at.grad_x.mode});
    });
  }
};

struct LeakyReluNode final : Node {
  Tensor x;
  double slope;

  LeakyReluNode(const Tensor& y_, const Tensor& x_, double slope_)
      : Node("leaky_relu", y_), x(x_), slope(slope_) {}

  void backward(Context& ctx) override {
    if (x.grad == nullptr) return;
    const ElementwiseGradients at(ctx, y, x);
    on_device(ctx, [&](auto stream) {
      kernels::leaky_relu_backward(stream, {.dtype = x.dtype,
                                            .count = x.count(),
                                            .y = y.data,
                                            .grad_y = at.grad_y.data,
                                            .grad_x = at.grad_x.grad.data,
                                            .slope = slope,
                                            .mode = at.grad_x.mode});
    });
  }
};

struct SigmoidNode final : Node {
  Tensor x;

  SigmoidNode(const Tensor& y_, const Tensor& x_) : Node("sigmoid", y_), x(x_) {}

  void backward(Context& ctx) override {
    if (x.grad == nullptr) return;
    const ElementwiseGradients at(ctx, y, x);
    on_device(ctx, [&](auto stream) {
      kernels::sigmoid_backward(stream, {.dtype = x.dtype,
                                         .count = x.count(),
                                         .y = y.data,
                                         .grad_y = at.grad_y.data,
                                         .grad_x = at.grad_x.grad.data,
                                         .mode = at.grad_x.mode});
    });
  }
};

struct AddNode final : Node {
  Tensor a, b;

  AddNode(const Tensor& y_, const Tensor& a_, const Tensor& b_) : Node("add", y_), a(a_), b(b_) {}

  // One operand takes over the buffer of the gradient: the one that has no gradient yet.
  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const bool a_has_one = a.grad != nullptr && a.grad->data != nullptr;
    add_gradient(ctx, a_has_one ? a : b, grad_y);
    const Tensor& other = a_has_one ? b : a;
    if (!ctx.hand_over_grad(y, other)) add_gradient(ctx, other, grad_y);
  }
};

struct ShortcutANode final : Node {
  Tensor x;
  kernels::ShortcutAShape shape;

  ShortcutANode(const Tensor& y_, const Tensor& x_, const kernels::ShortcutAShape& shape_)
      : Node("shortcut_a", y_), x(x_), shape(shape_) {}

  void backward(Context& ctx) override {
    const Tensor grad_y = ctx.grad_of(y);
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    on_device(ctx, [&](auto stream) {
      kernels::shortcut_a_backward(stream, {.dtype = x.dtype,
                                            .shape = shape,
                                            .grad_y = grad_y.data,
                                            .grad_x = target.grad.data,
                                            .mode = target.mode});
    });
  }
};

}  // namespace

void add_gradient(Context& ctx, const Tensor& x, const Tensor& gradient, double factor) {
  const GradTarget target = ctx.grad_target(x);
  if (!target) return;
  on_device(ctx, [&](auto stream) {
    kernels::scale(stream, {.dtype = x.dtype,
                            .count = x.count(),
                            .x = gradient.data,
                            .y = target.grad.data,
                            .factor = factor,
                            .mode = target.mode});
  });
}

Tensor relu(Context& ctx, const Tensor& x) {
  const Tensor y = ctx.variable(x.shape, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::relu_forward(stream, {.dtype = x.dtype, .count = x.count(), .x = x.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(ReluNode(y, x));
  return y;
}

Tensor leaky_relu(Context& ctx, const Tensor& x, double slope) {
  check(slope > 0, "leaky_relu: the sign of its result is that of x");
  const Tensor y = ctx.variable(x.shape, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::leaky_relu_forward(
        stream, {.dtype = x.dtype, .count = x.count(), .x = x.data, .y = y.data, .slope = slope});
  });
  if (ctx.recording()) ctx.push(LeakyReluNode(y, x, slope));
  return y;
}

Tensor sigmoid(Context& ctx, const Tensor& x) {
  const Tensor y = ctx.variable(x.shape, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::sigmoid_forward(stream, {.dtype = x.dtype, .count = x.count(), .x = x.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(SigmoidNode(y, x));
  return y;
}

Tensor add(Context& ctx, const Tensor& a, const Tensor& b) {
  if (a.shape != b.shape || a.dtype != b.dtype) {
    internal_error(fmt::format("add: {} {} vs {} {}", a.shape.to_string(), name_of(a.dtype),
                               b.shape.to_string(), name_of(b.dtype)));
  }
  const Tensor y = ctx.variable(a.shape, a.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::add(stream, {.dtype = a.dtype, .count = a.count(), .a = a.data, .b = b.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(AddNode(y, a, b));
  return y;
}

Tensor shortcut_a(Context& ctx, const Tensor& x, int stride, int channels) {
  if (x.shape.rank() != 4 || stride < 1 || channels < x.shape[3]) {
    internal_error(
        fmt::format("shortcut_a: input {}, stride {}, channels {}", x.shape.to_string(), stride, channels));
  }
  if (stride == 1 && channels == x.shape[3]) return x;
  const kernels::ShortcutAShape shape{.batch = x.shape[0],
                                      .height = x.shape[1],
                                      .width = x.shape[2],
                                      .channels_in = x.shape[3],
                                      .channels_out = channels,
                                      .stride = stride};
  const Tensor y = ctx.variable({shape.batch, shape.out_height(), shape.out_width(), channels}, x.dtype);
  on_device(ctx, [&](auto stream) {
    kernels::shortcut_a_forward(stream, {.dtype = x.dtype, .shape = shape, .x = x.data, .y = y.data});
  });
  if (ctx.recording()) ctx.push(ShortcutANode(y, x, shape));
  return y;
}

}  // namespace cohort::ops
