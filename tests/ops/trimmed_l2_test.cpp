#include "core/ops/trimmed_l2.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/support/feature_fixture.h"
#include "tests/support/op_check.h"
#include "tests/support/tolerance.h"

namespace cohort::test {
namespace {

using Values = std::vector<double>;

using OpsTrimmedL2 = OpTest;
COHORT_INSTANTIATE_DEVICES(OpsTrimmedL2);

TEST_P(OpsTrimmedL2, GoldenValueAndLoss) {
  for (const bool per_row : {false, true}) {
    Context ctx(options());
    const Tensor teacher = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF1));
    const Tensor student = variable(ctx, {2, 1, 2, 2}, nhwc(kGoldenF2));
    const Tensor weight = constant(ctx, {}, Values{2}), loss = constant(ctx, {}, Values{10});
    const Tensor value = ops::trimmed_l2(ctx, student, teacher, weight, {.per_row = per_row, .loss = loss});
    const double golden = per_row ? 0.090417 : 0.057083;
    EXPECT_TRUE(all_near(download<double>(ctx, value), Values{golden}, 2e-6));
    EXPECT_TRUE(all_near(download<double>(ctx, loss), Values{10 + 2 * golden}, 4e-6));
    EXPECT_THROW(ctx.grad_of(teacher), Error);  // detached
    EXPECT_TRUE(ctx.recorded_nodes().empty());
  }
}

TEST_P(OpsTrimmedL2, GradientsAgreeWithDifferences) {
  // Squares a step apart: no difference moves one across the border, where the gradient jumps.
  Values steps(2 * 2 * 3);
  for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = 0.05 * static_cast<double>(i * 5 % steps.size());
  for (const bool per_row : {false, true}) {
    Context ctx(options());
    Leaf student(ctx, {2, 1, 2, 3}, steps), teacher(ctx, {2, 1, 2, 3}, Values(steps.size()));
    const Tensor weight = kept(ctx, {}, Values{0.7});
    const auto weighted = [&] {
      const Tensor loss = constant(ctx, {}, Values{0});
      ops::trimmed_l2(ctx, student.tensor, teacher.tensor, weight, {.per_row = per_row, .loss = loss});
      return loss;
    };
    check_loss_gradients(ctx, weighted, {&student});
    EXPECT_FALSE(teacher.slot.written);
  }
}

TEST_P(OpsTrimmedL2, MismatchIsNamed) {
  Context ctx(options());
  const Tensor a = constant(ctx, {2, 1, 2, 2}, Values(8));
  const Tensor b = constant(ctx, {2, 2, 2, 1}, Values(8));
  const Tensor weight = constant(ctx, {}, Values{1});
  EXPECT_EQ(refusal([&] { ops::trimmed_l2(ctx, a, b, weight); }),
            "trimmed_l2: student [2,1,2,2] f64 vs teacher [2,2,2,1] f64");
}

}  // namespace
}  // namespace cohort::test
