// The two distances of DisWOT as operations: gradients through Gram matrices, and through the closed form of
// the cross-entropy's gradient.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/ops/relation_loss.h"
#include "core/ops/semantic_loss.h"
#include "tests/support/op_check.h"

namespace cohort {
namespace {

using test::kept;
using test::Leaf;
using test::Random;

struct DiswotTerms : test::OpTest {
  Random random{test::base_seed()};

  // The leaves' gradients against differences of the one value.
  static void check(Context& ctx, const std::function<Tensor()>& value, const std::vector<Leaf*>& leaves) {
    for (Leaf* leaf : leaves) leaf->slot.written = false;
    ctx.begin_step();
    value();
    for (Leaf* leaf : leaves) leaf->download();
    test::compare_with_differences(
        ctx, [&] { return test::download<double>(ctx, value())[0]; }, leaves);
  }
};
COHORT_INSTANTIATE_DEVICES(DiswotTerms);

TEST_P(DiswotTerms, RelationGradientAgreesWithDifferences) {
  Context ctx(options());
  Leaf student(ctx, {4, 2, 2, 3}, random);
  const Tensor teacher = kept(ctx, {4, 1, 1, 5}, random.normals<double>(20));
  const Tensor weight = kept<double>(ctx, {}, {1});
  check(ctx,
        [&] {
          return ops::relation_loss(ctx, {.student = student.tensor, .teacher = teacher, .weight = weight});
        },
        {&student});
}

TEST_P(DiswotTerms, SemanticGradientsAgreeWithDifferences) {
  Context ctx(options());
  // Signs jump where an entry is 0: few samples and channels keep away from that.
  Leaf logits(ctx, {3, 4}, random.normals<double>(12)), features(ctx, {3, 2}, {1.0, 2.0, 1.5, 0.7, 0.9, 1.1});
  const Tensor teacher_logits = kept(ctx, {3, 4}, random.normals<double>(12));
  const Tensor teacher_features = kept(ctx, {3, 2}, random.normals<double>(6));
  const Tensor labels = kept<std::int32_t>(ctx, {3}, {2, 0, 3}), weight = kept<double>(ctx, {}, {1});
  check(ctx,
        [&] {
          return ops::semantic_loss(ctx, {.student_logits = logits.tensor,
                                          .teacher_logits = teacher_logits,
                                          .student_features = features.tensor,
                                          .teacher_features = teacher_features,
                                          .labels = labels,
                                          .weight = weight});
        },
        {&logits, &features});
}

TEST_P(DiswotTerms, ANetworkIsLikeItself) {
  Context ctx(options());
  const Tensor map = kept(ctx, {3, 1, 1, 4}, random.normals<double>(12)), weight = kept<double>(ctx, {}, {1});
  const Tensor logits = kept(ctx, {3, 5}, random.normals<double>(15)),
               labels = kept<std::int32_t>(ctx, {3}, {4, 0, 1});
  ctx.begin_step();
  const Tensor r = ops::relation_loss(ctx, {.student = map, .teacher = map, .weight = weight});
  EXPECT_NEAR(test::download<double>(ctx, r)[0], 0, 1e-25);
  const Tensor s = ops::semantic_loss(ctx, {.student_logits = logits,
                                            .teacher_logits = logits,
                                            .student_features = map,
                                            .teacher_features = map,
                                            .labels = labels,
                                            .weight = weight});
  EXPECT_NEAR(test::download<double>(ctx, s)[0], 0, 1e-14);
}

}  // namespace
}  // namespace cohort
