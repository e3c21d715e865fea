// FitNet's regressor: its shapes, the gradient through it, and that all of it is in the checkpoint.
#include <gtest/gtest.h>

#include <algorithm>

#include "core/safetensors.h"
#include "distill/method_probe.h"
#include "tests/support/random.h"
#include "tests/support/tiny_training.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;

// A student's map of one size and a teacher's of another, two or three maps each.
struct Sizes {
  const char* name;
  std::int64_t student, teacher;
};

ProbeInput maps_of_sizes(const Sizes& sizes) {
  test::Random random(test::base_seed() + 3);
  ProbeInput in{.rows = 3, .classes = 4, .labels = {3, 0, 2}};
  const std::int64_t channels[] = {3, 5}, side[] = {sizes.teacher, sizes.student};
  for (std::size_t k = 0; k < 2; ++k) {
    in.logits.push_back(random.normals<double>(12));
    const auto map = [&](std::int64_t c, std::int64_t s) {
      return ProbeMap{c, s, s, random.normals<double>(static_cast<std::size_t>(3 * c * s * s))};
    };
    in.earlier.push_back({map(2, 6), map(2, 6), map(channels[k], side[k])});  // f2 is the hint
    in.features.push_back(map(4, 2));
  }
  return in;
}

ProbeOutput run(const ProbeInput& in, const std::string& regressor = "auto") {
  const MethodInfo& info = find_method("fitnet");
  MethodOptions options(info.options);
  options.set("fitnet.regressor", regressor);
  options.set("fitnet.weight", "2");
  return probe_method(*info.make(options), in);
}

class FitNetSizes : public testing::TestWithParam<Sizes> {};
INSTANTIATE_TEST_SUITE_P(Ratios, FitNetSizes,
                         testing::Values(Sizes{"equal", 3, 3}, Sizes{"half", 4, 2}, Sizes{"double", 2, 4},
                                         Sizes{"valid", 5, 3}),
                         [](const auto& p) { return p.param.name; });

TEST_P(FitNetSizes, GradientsReachTheStudentThroughTheRegressor) {
  ProbeInput in = maps_of_sizes(GetParam());
  const ProbeOutput at = run(in);
  Values& student = in.earlier[1][2].values;
  // Small steps: the regressor ends in a ReLU, whose kinks a wide stencil would step over.
  for (std::size_t i = 0; i < student.size(); ++i) {
    const double x = student[i];
    const auto loss = [&](double h) {
      student[i] = x + h;
      return run(in).loss[1];
    };
    const double difference = (loss(1e-6) - loss(-1e-6)) / 2e-6;
    student[i] = x;
    EXPECT_NEAR(at.grad_earlier[1][2][i], difference, 1e-7) << i;
  }
  EXPECT_EQ(at.grad_earlier[0][2], Values(in.earlier[0][2].values.size(), 0.0)) << "the teacher is detached";
  EXPECT_EQ(at.grad_features[1], Values(in.features[1].values.size(), 0.0)) << "another map";
  const bool transposed = GetParam().teacher == 2 * GetParam().student;
  ASSERT_EQ(at.parameters.size(), transposed ? 3U : 4U);
  EXPECT_EQ(at.parameters[0].name, "regressor.conv.weight");
  for (const ProbeParameter& p : at.parameters) {
    EXPECT_EQ(p.member, 1);
    if (p.name == "regressor.conv.bias") continue;  // batch normalisation takes it off
    EXPECT_GT(*std::max_element(p.gradient.begin(), p.gradient.end()), 1e-6) << p.name;
  }
}

TEST(FitNet, SizesThatNoRegressorJoinsAreRefused) {
  EXPECT_THROW(run(maps_of_sizes({"", 3, 5})), Error);
  EXPECT_THROW(run(maps_of_sizes({"", 3, 3}), "identity"), Error) << "channels differ";
  ProbeInput few = maps_of_sizes({"", 3, 3});
  for (auto& maps : few.earlier) maps.resize(1);
  EXPECT_THROW(run(few), Error) << "no f2";
}

bool has_tensor(const Trainer& trainer, const std::string& name) {
  for (const NamedBytes& file : trainer.state()) {
    if (file.name == "optim.safetensors")
      return parse_safetensors(file.bytes, file.name, {.allow_nonfinite = false}).find(name) != nullptr;
  }
  return false;
}

// The regressor and, of the same network, the adapters of an addition.
TEST(FitNet, EveryPartOfTheMethodIsResumedBitwise) {
  const test::RunOptions options{.method = "fitnet", .add = "adm", .models = {"resnet8", "wrn_16_2"}};
  test::TestRun whole(options);
  whole.trainer->run();
  const auto parts = whole.cohort->method().extra_parameters(1);
  ASSERT_EQ(parts.size(), 2U);
  EXPECT_TRUE(whole.cohort->method().extra_parameters(0).empty());
  for (const char* name : {"extra.b.regressor.conv.weight", "extra_momentum.b.regressor.conv.bias",
                           "extra.b.regressor.bn.running_mean", "extra.b.regressor.bn.running_var",
                           "extra2.b.adapter.0.3.weight", "extra_momentum2.b.adapter.0.3.weight"}) {
    EXPECT_TRUE(has_tensor(*whole.trainer, name)) << name;
  }
  for (const double v : download_values(whole.context(), parts[0]->buffers()[0].value))
    EXPECT_NE(v, 0) << "statistics moved";
  test::TestRun first(options);
  first.recorder.stop_at = 3;
  first.trainer->run();
  test::TestRun second(options);
  second.trainer->restore(first.trainer->state());
  second.trainer->run();
  const std::vector<NamedBytes> a = whole.trainer->state(), b = second.trainer->state();
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(a[i].bytes == b[i].bytes) << a[i].name;
}

}  // namespace
}  // namespace cohort::distill
