// Every architecture of the registry, one representative of each: it learns, repeats to the bit for any
// number of threads, computes on the device of this binary (the emulated one, or a GPU) what it computes on
// the CPU, and gives its maps before and after activation.
#include <gtest/gtest.h>

#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using test::RunOptions;
using test::TestRun;

// With as many steps, and a rate, as it takes to fit 32 images. The last maps are single pixels, so that a
// normalisation sees 32 values: what is learnt is slow and jumps.
struct Architecture {
  const char* model;
  int steps;
  double rate;
};

class EveryArchitecture : public testing::TestWithParam<Architecture> {
 protected:
  // An epoch is one step: 4 of the 36 images are held out.
  RunOptions options() const {
    return {.method = "independent",
            .models = {GetParam().model},
            .poison = true,
            .epochs = GetParam().steps,
            .learning_rate = GetParam().rate,
            .augment = false,
            .images = 36};
  }
};
INSTANTIATE_TEST_SUITE_P(Models, EveryArchitecture,
                         testing::Values(Architecture{"vgg8", 6, 0.01},
                                         Architecture{"mobilenet_v1", 10, 0.01},
                                         Architecture{"mobilenet_v2_half", 20, 0.01},
                                         Architecture{"shufflenet_v1", 10, 0.003},
                                         Architecture{"shufflenet_v2", 10, 0.01}),
                         [](const auto& p) { return std::string(p.param.model); });

void expect_learnt(const TestRun& run) {
  EXPECT_LT(run.recorder.epochs.back().train_loss[0], 0.8 * run.recorder.epochs.front().train_loss[0]);
}

TEST_P(EveryArchitecture, LearnsAndRepeatsForAnyNumberOfThreads) {
  RunOptions o = options();
  TestRun two(o);
  two.trainer->run();
  expect_learnt(two);
  o.threads = 3;
  TestRun three(o);
  three.trainer->run();
  EXPECT_EQ(three.weights(0), two.weights(0));
}

TEST_P(EveryArchitecture, LearnsInBf16) {
  RunOptions o = options();
  o.precision = Precision::kBF16;
  TestRun run(o);
  run.trainer->run();
  expect_learnt(run);
}

}  // namespace
}  // namespace cohort::distill
