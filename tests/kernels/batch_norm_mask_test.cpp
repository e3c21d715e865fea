// The mask of a batch norm's ReLU: what it holds, and that the backward pass with it is the one with y.
#include <gtest/gtest.h>

#include <vector>

#include "kernels/batch_norm.h"
#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"

namespace cohort::kernels {
namespace {

using test::Guarded;
using test::Random;
using test::Scratch;

template <class Param>
class BatchNormMask : public test::TypedDeviceTest<Param> {};
using Types = test::OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(BatchNormMask, Types, test::DeviceNames);

template <class T>
std::vector<double> to_doubles(const Guarded<T>& values) {
  std::vector<double> out;
  for (const T& v : values.values()) out.push_back(static_cast<double>(v));
  return out;
}

template <class T>
struct Gradients {
  Guarded<T> x, residual;
  Guarded<Accumulator<T>> gamma, beta;
  explicit Gradients(const BatchNormShape& s)
      : x(s.rows * s.channels), residual(s.rows * s.channels), gamma(s.channels), beta(s.channels) {}
};

template <class T>
struct Pass {
  using A = Accumulator<T>;
  BatchNormShape shape;
  Guarded<T> x, residual, grad_y, y;
  Guarded<A> gamma, beta, mean, invstd;
  Guarded<std::uint8_t> mask;

  Pass(const BatchNormShape& s, std::size_t mask_bytes, Random random)
      : shape(s),
        x(random.normals<T>(s.rows * s.channels)),
        residual(random.normals<T>(s.rows * s.channels)),
        grad_y(random.normals<T>(s.rows * s.channels)),
        y(s.rows * s.channels),
        gamma(random.normals<A>(s.channels)),
        beta(random.normals<A>(s.channels)),
        mean(s.channels),
        invstd(s.channels),
        mask(mask_bytes) {}

  void forward(test::Place place, bool with_residual) {
    Scratch scratch(batch_norm_workspace(shape));
    test::OnDevice on(place);
    on.run([&](auto stream) {
      batch_norm_forward(stream, {.dtype = dtype_of<T>(),
                                  .shape = shape,
                                  .x = on(x),
                                  .residual = with_residual ? on(residual) : nullptr,
                                  .gamma = on(gamma),
                                  .beta = on(beta),
                                  .mean = on(mean),
                                  .invstd = on(invstd),
                                  .y = on(y),
                                  .mask = on(mask),
                                  .relu = true,
                                  .workspace = on(scratch)});
    });
    EXPECT_TRUE(mask.intact());
  }

  // With the mask there is no y to read.
  Gradients<T> backward(test::Place place, bool with_mask, bool with_residual) {
    Gradients<T> g(shape);
    Scratch scratch(batch_norm_workspace(shape));
    test::OnDevice on(place);
    on.run([&](auto stream) {
      batch_norm_backward(stream, {.dtype = dtype_of<T>(),
                                   .shape = shape,
                                   .x = on(x),
                                   .y = with_mask ? nullptr : on(y),
                                   .mask = with_mask ? on(mask) : nullptr,
                                   .grad_y = on(grad_y),
                                   .gamma = on(gamma),
                                   .mean = on(mean),
                                   .invstd = on(invstd),
                                   .grad_x = on(g.x),
                                   .grad_residual = with_residual ? on(g.residual) : nullptr,
                                   .grad_gamma = on(g.gamma),
                                   .grad_beta = on(g.beta),
                                   .relu = true,
                                   .workspace = on(scratch)});
    });
    return g;
  }
};

template <class T>
std::size_t mask_bytes(test::Device device, const BatchNormShape& shape) {
  std::size_t bytes = 0;
  test::OnDevice(device).run(
      [&](auto stream) { bytes = batch_norm_mask_bytes(stream, dtype_of<T>(), shape); });
  return bytes;
}

TYPED_TEST(BatchNormMask, HoldsWhatTheReluLetThrough) {
  using T = typename TypeParam::Type;
  constexpr std::int64_t kWidth = 16 / static_cast<std::int64_t>(sizeof(T));
  int masks = 0;
  for (const BatchNormShape& shape :
       {BatchNormShape{2, 8}, {33, 16}, {129, 24}, {257, 64}, {31, 7}, {1000, 40}}) {
    SCOPED_TRACE(testing::Message() << shape.rows << "x" << shape.channels);
    const std::size_t bytes = mask_bytes<T>(TypeParam::device, shape);
    if (TypeParam::device == test::Device::kCpu || shape.channels % kWidth != 0) {
      EXPECT_EQ(bytes, 0U);
      continue;
    }
    ASSERT_EQ(bytes, static_cast<std::size_t>(shape.rows * shape.channels / kWidth));
    ++masks;
    for (const bool residual : {false, true}) {
      test::for_each_place(TypeParam::device, [&](test::Place place) {
        Pass<T> pass(shape, bytes, Random(test::base_seed(7)));
        pass.forward(place, residual);
        std::vector<std::uint8_t> wanted(bytes);
        for (std::int64_t i = 0; i < shape.rows * shape.channels; ++i)
          wanted[i / kWidth] |=
              static_cast<std::uint8_t>((static_cast<double>(pass.y[i]) > 0 ? 1 : 0) << (i % kWidth));
        EXPECT_EQ(pass.mask.values(), wanted);
        const Gradients<T> with_y = pass.backward(place, false, residual);
        const Gradients<T> with_mask = pass.backward(place, true, residual);
        EXPECT_EQ(to_doubles(with_mask.x), to_doubles(with_y.x));
        if (residual) {
          EXPECT_EQ(to_doubles(with_mask.residual), to_doubles(with_y.residual));
        }
        EXPECT_EQ(to_doubles(with_mask.gamma), to_doubles(with_y.gamma));
        EXPECT_EQ(to_doubles(with_mask.beta), to_doubles(with_y.beta));
      });
    }
  }
  EXPECT_EQ(masks, TypeParam::device == test::Device::kCpu ? 0 : 5);
}

}  // namespace
}  // namespace cohort::kernels
