// Tests of operations on every device, and their gradient checks in double.
//
//   using PoolOp = test::OpTest;                       // a case runs on the CPU and on the device of the
//   binary COHORT_INSTANTIATE_DEVICES(PoolOp); TEST_P(PoolOp, AverageGradient) {
//     Context ctx(options());
//     Leaf x(ctx, {2, 6, 5, 3}, random);
//     check_gradients(ctx, [&] { return ops::avg_pool(ctx, x.tensor, {...}); }, {&x});
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "core/context.h"
#include "core/gradcheck.h"
#include "tests/support/devices.h"
#include "tests/support/random.h"
#include "tests/support/tensors.h"

namespace cohort::test {

// The parameter is the device. Contexts are made in the tests: where there is no device they are skipped
// before.
class OpTest : public DeviceTest {
 protected:
  ContextOptions options(Precision precision = Precision::kF64, int threads = 2) const {
    const bool on_cpu = GetParam() == Device::kCpu;
    return {.device = {on_cpu ? DeviceKind::kCpu : DeviceKind::kCuda},
            .precision = precision,
            .num_threads = threads,
            .poison = true};
  }
};

// An input that learns, as a parameter does: value and gradient live outside the tape. `values` and
// `gradient` are the host's; upload() and download() bring them to the device and back.
template <class T, class Grad = T>
struct LeafOf {
  LeafOf(Context& context, const Shape& shape, std::vector<T> initial)
      : ctx(context),
        values(std::move(initial)),
        gradient(values.size()),
        tensor(ctx.persistent_tensor(shape, dtype_of<T>())),
        grad(ctx.persistent_tensor(shape, dtype_of<Grad>())),
        slot{.data = grad.data, .dtype = dtype_of<Grad>(), .persistent = true} {
    check(static_cast<std::int64_t>(values.size()) == shape.count(), "test: values do not fill the shape");
    tensor.grad = &slot;
    upload();
  }
  LeafOf(Context& context, const Shape& shape, Random& random)
      : LeafOf(context, shape, random.normals<T>(static_cast<std::size_t>(shape.count()))) {}
  LeafOf(const LeafOf&) = delete;
  LeafOf& operator=(const LeafOf&) = delete;

  void upload() { ctx.upload(tensor, values.data()); }
  void download() { ctx.download(gradient.data(), grad); }

  Context& ctx;
  std::vector<T> values;
  std::vector<Grad> gradient;
  Tensor tensor, grad;
  GradSlot slot;
};
using Leaf = LeafOf<double>;

// A constant that outlives the step.
template <class T>
Tensor kept(Context& ctx, const Shape& shape, const std::vector<T>& values) {
  const Tensor t = ctx.persistent_tensor(shape, dtype_of<T>());
  check(static_cast<std::int64_t>(values.size()) == shape.count(), "test: values do not fill the shape");
  ctx.upload(t, values.data());
  return t;
}

// Writes the gradient of every leaf for the scalar <direction, forward()>.
inline void backward(Context& ctx, const std::function<Tensor()>& forward, const std::vector<Leaf*>& leaves,
                     const std::vector<double>& direction) {
  for (Leaf* leaf : leaves) {
    leaf->slot.written = false;
    std::fill(leaf->gradient.begin(), leaf->gradient.end(), 1e30);  // must be overwritten
    ctx.upload(leaf->grad, leaf->gradient.data());
    leaf->upload();
  }
  ctx.begin_step();
  seed_gradient(ctx, forward(), direction);
  ctx.backward();
  for (Leaf* leaf : leaves) leaf->download();
}

// On the emulated device a kernel costs a tenth of a millisecond, so some entries of each input stand for
// all; the CPU and a GPU check every one.
inline GradcheckOptions entries_to_check(const Context& ctx) {
  GradcheckOptions options;
  if (kEmulated && ctx.device().kind == DeviceKind::kCuda) options.max_inputs = 13;
  return options;
}

// Compares `gradient`, of the scalar f() by each leaf's values, with differences.
inline void compare_with_differences(Context& ctx, const std::function<double()>& f,
                                     const std::vector<Leaf*>& leaves) {
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    SCOPED_TRACE(::testing::Message() << "input " << i);
    Leaf& leaf = *leaves[i];
    const auto of_leaf = [&] {
      leaf.upload();
      ctx.begin_step();
      return f();
    };
    EXPECT_EQ(
        gradcheck(of_leaf, leaf.values.data(), leaf.tensor.count(), leaf.gradient, entries_to_check(ctx)),
        "");
    leaf.upload();
  }
}

// Compares the gradient of <direction, forward()> by every entry of every leaf with differences.
inline void check_gradients(Context& ctx, const std::function<Tensor()>& forward,
                            const std::vector<Leaf*>& leaves) {
  Random random(base_seed() + 99);
  for (Leaf* leaf : leaves) leaf->upload();
  ctx.begin_step();
  const std::vector<double> direction = random.normals<double>(static_cast<std::size_t>(forward().count()));
  backward(ctx, forward, leaves, direction);
  compare_with_differences(
      ctx,
      [&] {
        const std::vector<double> values = download<double>(ctx, forward());
        double sum = 0;
        for (std::size_t i = 0; i < direction.size(); ++i) sum += values[i] * direction[i];
        return sum;
      },
      leaves);
}

// The same for losses, which write the gradients of their inputs themselves: loss()[i] is what leaf i learns
// from.
inline void check_loss_gradients(Context& ctx, const std::function<Tensor()>& loss,
                                 const std::vector<Leaf*>& leaves) {
  for (Leaf* leaf : leaves) {
    leaf->slot.written = false;
    leaf->upload();
  }
  ctx.begin_step();
  loss();
  for (Leaf* leaf : leaves) leaf->download();
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    compare_with_differences(ctx, [&] { return download<double>(ctx, loss())[i]; }, {leaves[i]});
  }
}

// The message of the Error(kInternal) that f throws; empty where it throws none.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    return error.what();
  }
  return "";
}

}  // namespace cohort::test
