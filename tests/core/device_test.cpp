// Context, arenas, tape and step plan on every device: what a device adds is that work is queued, that host
// code cannot touch tensors, and that a step is captured and replayed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "core/context.h"
#include "core/dispatch.h"
#include "core/step_plan.h"
#include "kernels/memory.h"
#include "kernels/pointwise.h"
#include "tests/support/devices.h"
#if defined(COHORT_EMULATED_DEVICE)
#include "simt/runtime/runtime.h"
#endif

namespace cohort {
namespace {

DeviceKind kind_of(test::Device device) {
  return device == test::Device::kCpu ? DeviceKind::kCpu : DeviceKind::kCuda;
}

// f, in every order in which the emulated device may run what is queued.
void for_each_order(test::Device device, const std::function<void()>& f) {
#if defined(COHORT_EMULATED_DEVICE)
  if (device == test::Device::kCuda) {
    for (const simt::StreamOrder order : simt::all_orders()) {
      SCOPED_TRACE(simt::to_string(order));
      simt::set_order(order);
      f();
    }
    simt::set_order({});
    return;
  }
#else
  (void)device;
#endif
  f();
}

std::vector<float> values_of(Context& ctx, const Tensor& t) {
  std::vector<float> values(static_cast<std::size_t>(t.count()));
  ctx.download(values.data(), t);
  return values;
}

// y = k x, with its gradient.
struct ScaleNode final : Node {
  ScaleNode(const Tensor& result, const Tensor& input, double factor)
      : Node("scale", result), x(input), k(factor) {}
  Tensor x;
  double k;
  void backward(Context& ctx) override {
    const GradTarget target = ctx.grad_target(x);
    if (!target) return;
    const Tensor up = ctx.grad_of(y);
    on_device(ctx, [&](auto stream) {
      kernels::scale(
          stream,
          {.count = y.count(), .x = up.data, .y = target.grad.data, .factor = k, .mode = target.mode});
    });
  }
};

Tensor scale(Context& ctx, const Tensor& x, double k) {
  const Tensor y = ctx.variable(x.shape, DType::f32);
  on_device(ctx, [&](auto stream) {
    kernels::scale(stream, {.count = x.count(), .x = x.data, .y = y.data, .factor = k});
  });
  if (ctx.recording()) ctx.push(ScaleNode(y, x, k));
  return y;
}

// y += factor x
void accumulate(Context& ctx, const Tensor& x, const Tensor& y, double factor) {
  on_device(ctx, [&](auto stream) {
    kernels::scale(
        stream,
        {.count = x.count(), .x = x.data, .y = y.data, .factor = factor, .mode = GradMode::kAccumulate});
  });
}

void fill(Context& ctx, const Tensor& y, double value) {
  on_device(ctx,
            [&](auto stream) { kernels::fill(stream, {.count = y.count(), .y = y.data, .value = value}); });
}

// A cohort in miniature. Per step: h = 2 input (main); member k: y_k = (k + 1) h, z_k = y_k / 2; then the
// losses' gradients dz_k = w_1 + w_2 (main), backward on the branches, and w_k += dh_k / 1024. All values are
// dyadic rationals: every order and every device must give the same bits.
struct Miniature {
  static constexpr std::int64_t kCount = 33;
  Context ctx;
  Tensor input;
  Tensor w[2];
  int calls = 0;

  explicit Miniature(test::Device device, bool poison = true)
      : ctx({.device = {.kind = kind_of(device)}, .num_threads = 2, .num_branches = 2, .poison = poison}) {
    input = ctx.persistent_tensor({kCount}, DType::f32);
    for (Tensor& t : w) {
      t = ctx.persistent_tensor({kCount}, DType::f32);
      fill(ctx, t, 1.0);
    }
  }

  void step() {
    ++calls;
    ctx.begin_step();
    Tensor h = ctx.variable({kCount}, DType::f32);
    on_device(ctx, [&](auto stream) {
      kernels::scale(stream, {.count = kCount, .x = input.data, .y = h.data, .factor = 2});
    });
    Tensor inputs[2], z[2];
    ctx.fork();
    for (int k = 0; k < 2; ++k) {
      ctx.on_branch(k + 1, [&] {
        inputs[k] = ctx.variable({kCount}, DType::f32);
        on_device(ctx, [&](auto stream) {
          kernels::scale(stream, {.count = kCount, .x = h.data, .y = inputs[k].data});
        });
        z[k] = scale(ctx, scale(ctx, inputs[k], k + 1.0), 0.5);
      });
    }
    ctx.join();
    for (int k = 0; k < 2; ++k) {
      const Tensor grad = ctx.grad_target(z[k]).grad;
      on_device(ctx, [&](auto stream) {
        kernels::add(stream, {.count = kCount, .a = w[0].data, .b = w[1].data, .y = grad.data});
      });
      accumulate(ctx, z[1 - k], grad, 1.0);
    }
    ctx.fork();
    for (int k = 0; k < 2; ++k) ctx.on_branch(k + 1, [&] { ctx.backward(); });
    ctx.join();
    for (int k = 0; k < 2; ++k) accumulate(ctx, ctx.grad_of(inputs[k]), w[k], 1.0 / 1024);
  }

  void set_input(int step_index) {
    const std::vector<float> values(kCount, static_cast<float>(step_index % 3) * 0.25F);
    ctx.upload(input, values.data());
  }
};

class CoreOnDevice : public test::DeviceTest {
 protected:
  void SetUp() override {
    if (kind_of(GetParam()) == DeviceKind::kCuda && !kHasCuda) GTEST_SKIP() << "a build without CUDA";
    test::DeviceTest::SetUp();
  }
};
COHORT_INSTANTIATE_DEVICES(CoreOnDevice);

TEST_P(CoreOnDevice, TensorsGoThereAndBack) {
  Context ctx({.device = {.kind = kind_of(GetParam())}, .num_threads = 1});
  const Tensor t = ctx.persistent_tensor({1000}, DType::f32);
  EXPECT_EQ(values_of(ctx, t), std::vector<float>(1000, 0.0F)) << "persistent memory is zero";
  std::vector<float> values(1000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  ctx.upload(t, values.data());
  std::vector<float> source = values;
  ctx.upload(t, source.data());
  source.assign(source.size(), -1.0F);  // may be reused at once
  EXPECT_EQ(values_of(ctx, t), values);
  ctx.begin_step();
  EXPECT_EQ(values_of(ctx, t), values) << "a step does not touch what is persistent";
}

TEST_P(CoreOnDevice, ArenasGiveTheSameAddressesAgain) {
  Context ctx({.device = {.kind = kind_of(GetParam())}, .num_threads = 1, .num_branches = 1});
  const auto round = [&] {
    ctx.begin_step();
    std::vector<void*> at;
    for (const int branch : {0, 1, 0}) {
      ctx.on_branch(branch, [&] {
        for (const std::int64_t n : {1, 100, 5000}) at.push_back(ctx.empty({n}, DType::f32).data);
        at.push_back(ctx.workspace(12345).data());
      });
    }
    return at;
  };
  const std::vector<void*> first = round();
  const std::size_t bytes = ctx.arena_bytes();
  for (void* p : first) EXPECT_EQ(reinterpret_cast<std::uintptr_t>(p) % 64, 0U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(round(), first);
  EXPECT_EQ(ctx.arena_bytes(), bytes);
}

TEST_P(CoreOnDevice, PoisonShowsStaleReads) {
  Context ctx({.device = {.kind = kind_of(GetParam())}, .num_threads = 1, .num_branches = 1, .poison = true});
  for (const int branch : {0, 1}) {
    ctx.on_branch(branch, [&] {
      ctx.begin_step();
      const Tensor t = ctx.empty({64}, DType::f32);
      fill(ctx, t, 1.0);
      EXPECT_EQ(values_of(ctx, t)[63], 1.0F);
      ctx.begin_step();
      const Tensor again = ctx.empty({64}, DType::f32);
      EXPECT_EQ(again.data, t.data);
      EXPECT_TRUE(std::isnan(values_of(ctx, again)[63]));
    });
  }
}

TEST_P(CoreOnDevice, AbsurdSizesAreOutOfMemory) {
  Context ctx({.device = {.kind = kind_of(GetParam())}, .num_threads = 1});
  try {
    ctx.empty({std::int64_t{1} << 58}, DType::f32);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kMemory);
  }
  EXPECT_EQ(values_of(ctx, ctx.persistent_tensor({3}, DType::f32)), std::vector<float>(3, 0.0F));
}

TEST_P(CoreOnDevice, AnExceptionLeavesTheBranch) {
  Miniature m(GetParam());
  EXPECT_THROW(m.ctx.on_branch(2, [] { throw Error(ErrorKind::kUsage, "x"); }), Error);
  m.step();
  EXPECT_EQ(values_of(m.ctx, m.w[0]), std::vector<float>(Miniature::kCount, 1.0F + 1.0F / 1024))
      << "the main branch is the current one again";
}

// Six steps on the CPU, called one by one: what every device must reproduce.
std::vector<std::vector<float>> reference_steps() {
  Miniature m(test::Device::kCpu);
  std::vector<std::vector<float>> result;
  for (int i = 0; i < 6; ++i) {
    m.set_input(i);
    m.step();
    result.push_back(values_of(m.ctx, m.w[0]));
    result.push_back(values_of(m.ctx, m.w[1]));
  }
  return result;
}

TEST_P(CoreOnDevice, EagerStepsGiveTheSameBits) {
  const std::vector<std::vector<float>> expected = reference_steps();
  for_each_order(GetParam(), [&] {
    Miniature m(GetParam());
    for (int i = 0; i < 6; ++i) {
      m.set_input(i);
      m.step();
      for (std::size_t k = 0; k < 2; ++k) {
        EXPECT_EQ(values_of(m.ctx, m.w[k]), expected[2 * static_cast<std::size_t>(i) + k]);
      }
    }
  });
}

TEST_P(CoreOnDevice, ReplayedStepsGiveTheSameBits) {
  const std::vector<std::vector<float>> expected = reference_steps();
  for_each_order(GetParam(), [&] {
    Miniature m(GetParam());
    StepPlan plan(m.ctx, [&] { m.step(); });
    for (int i = 0; i < 6; ++i) {
      m.set_input(i);  // read from device memory: the plan need not know
      plan.run();
      for (std::size_t k = 0; k < 2; ++k) {
        EXPECT_EQ(values_of(m.ctx, m.w[k]), expected[2 * static_cast<std::size_t>(i) + k]) << "step " << i;
      }
    }
    EXPECT_TRUE(plan.ready());
    EXPECT_EQ(m.calls, kind_of(GetParam()) == DeviceKind::kCuda ? 3 : 6)
        << "two warm-up steps and the capture";
  });
}

TEST_P(CoreOnDevice, StepsQueueUpWithoutTheHost) {
  const std::vector<std::vector<float>> expected = reference_steps();
  for_each_order(GetParam(), [&] {
    Miniature m(GetParam());
    StepPlan plan(m.ctx, [&] { m.step(); });
    for (int i = 0; i < 6; ++i) {
      m.set_input(i);
      plan.run();
    }
    EXPECT_EQ(values_of(m.ctx, m.w[0]), expected[10]);
    EXPECT_EQ(values_of(m.ctx, m.w[1]), expected[11]);
  });
}

TEST_P(CoreOnDevice, WhatRunsBetweenStepsDoesNotDisturbAPlan) {
  const std::vector<std::vector<float>> expected = reference_steps();
  Miniature m(GetParam());
  StepPlan plan(m.ctx, [&] { m.step(); });
  for (int i = 0; i < 6; ++i) {
    m.set_input(i);
    plan.run();
    // An evaluation with larger batches: arenas and workspaces grow.
    m.ctx.begin_step();
    m.ctx.set_recording(false);
    m.ctx.fork();
    for (int k = 1; k <= 2; ++k) {
      m.ctx.on_branch(k, [&] {
        const std::int64_t more = i == 1 || i == 4 ? 9'000'000 : 0;  // another chunk
        fill(m.ctx, m.ctx.empty({more + i + 1}, DType::f32), 7.0);
        m.ctx.workspace(static_cast<std::size_t>(i + 1) * 100'000);
      });
    }
    m.ctx.join();
    m.ctx.set_recording(true);
    EXPECT_EQ(values_of(m.ctx, m.w[1]), expected[2 * static_cast<std::size_t>(i) + 1]);
  }
}

TEST_P(CoreOnDevice, TwoPlansTakeTurns) {
  const std::vector<std::vector<float>> expected = reference_steps();
  Miniature m(GetParam());
  int other_calls = 0;
  StepPlan plan(m.ctx, [&] { m.step(); });
  StepPlan other(m.ctx, [&] {  // as an epoch's short last batch
    ++other_calls;
    m.ctx.begin_step();
    fill(m.ctx, m.ctx.empty({10}, DType::f32), 3.0);
  });
  for (int i = 0; i < 6; ++i) {
    m.set_input(i);
    plan.run();
    other.run();
  }
  EXPECT_EQ(values_of(m.ctx, m.w[0]), expected[10]);
  EXPECT_EQ(other_calls, kind_of(GetParam()) == DeviceKind::kCuda ? 3 : 6);
}

TEST_P(CoreOnDevice, AStepThatReadsItsResultsCannotBeCaptured) {
  if (kind_of(GetParam()) == DeviceKind::kCpu) GTEST_SKIP() << "the CPU captures nothing";
  Miniature m(GetParam());
  bool read = true;
  StepPlan plan(m.ctx, [&] {
    m.step();
    if (read) values_of(m.ctx, m.w[0]);
  });
  plan.run();
  plan.run();
  try {
    plan.run();
    FAIL() << "a host read inside a captured step";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInternal);
    EXPECT_STREQ(e.what(), "copy_to_host inside a captured step");
  }
  EXPECT_FALSE(plan.ready());
  read = false;
  plan.run();  // the capture was given up, so the streams work again
  EXPECT_TRUE(plan.ready());
  EXPECT_EQ(values_of(m.ctx, m.w[0]).size(), static_cast<std::size_t>(Miniature::kCount));
}

TEST_P(CoreOnDevice, AStepThatAllocatesCannotBeCaptured) {
  if (kind_of(GetParam()) == DeviceKind::kCpu) GTEST_SKIP() << "the CPU captures nothing";
  Miniature m(GetParam());
  int runs = 0;
  StepPlan plan(m.ctx, [&] {
    m.step();
    if (++runs == 3) m.ctx.empty({std::int64_t{100} << 20}, DType::u8);
  });
  plan.run();
  plan.run();
  try {
    plan.run();
    FAIL() << "an allocation inside a captured step";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kDevice);
    EXPECT_NE(std::string(e.what()).find("cudaMalloc failed: cudaErrorStreamCapture"), std::string::npos)
        << e.what();
  }
}

#if defined(COHORT_EMULATED_DEVICE)
// backward() waits for what its nodes do aside. Work that nobody waits for is no part of a step.
TEST(Aside, WorkThatIsNotJoinedCannotBeCaptured) {
  Context ctx({.device = {DeviceKind::kCuda, 0}, .num_threads = 1, .num_branches = 1});
  const Tensor x = ctx.persistent_tensor({8}, DType::f32);
  const Tensor y = ctx.persistent_tensor({8}, DType::f32);
  StepPlan plan(ctx, [&] {
    ctx.begin_step();
    ctx.aside([&] { accumulate(ctx, x, y, 1); });
  });
  plan.run();
  plan.run();
  try {
    plan.run();
    ADD_FAILURE() << "captured";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("StreamCaptureUnjoined"), std::string::npos) << error.what();
  }
  simt::reset();
}
#endif

}  // namespace
}  // namespace cohort
