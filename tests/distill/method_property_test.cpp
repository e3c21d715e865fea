// What every method promises, whatever its numbers: checked on random logits in double.
#include <gtest/gtest.h>

#include <cmath>

#include "distill/method_probe.h"
#include "tests/support/random.h"
#include "tests/support/tiny_training.h"
#include "tests/support/tolerance.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;
using Settings = std::vector<std::pair<std::string, std::string>>;

ProbeOutput probe(const std::string& name, const ProbeInput& in, const Settings& settings = {}) {
  const MethodInfo& info = find_method(name);
  MethodOptions options(info.options);
  for (const auto& [key, value] : settings) options.set(key, value);
  return probe_method(*info.make(options), in);
}

ProbeInput random_input(int members, int rows, int classes, std::uint64_t seed) {
  test::Random random(test::base_seed() + seed);
  ProbeInput in{.rows = rows, .classes = classes, .logits = {}, .labels = {}, .features = {}};
  for (int k = 0; k < members; ++k)
    in.logits.push_back(random.normals<double>(static_cast<std::size_t>(rows * classes), 0, 2));
  in.labels = random.integers<std::int32_t>(static_cast<std::size_t>(rows), 0, classes - 1);
  return in;
}

ProbeOutput independent(const ProbeInput& in) {
  return probe("independent", in);
}

// With a map and a classifier for each member, for methods that look at them.
ProbeInput with_features(ProbeInput in, std::uint64_t seed) {
  test::Random random(test::base_seed() + seed);
  for (std::size_t k = 0; k < in.logits.size(); ++k) {
    const auto rows = static_cast<std::size_t>(in.rows), classes = static_cast<std::size_t>(in.classes);
    in.features.push_back({3, 2, 2, random.normals<double>(rows * 12)});
    in.classifiers.push_back({random.normals<double>(classes * 3), random.normals<double>(classes)});
  }
  return in;
}

class EveryLoss : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, EveryLoss, testing::ValuesIn(test::method_names()),
                         test::MethodAsTestName());

TEST_P(EveryLoss, RowsOfGradientsSumToZero) {
  const ProbeInput in = with_features(random_input(2, 5, 7, 1), 11);
  for (const Values& gradient : probe(GetParam(), in).grad_logits) {
    for (std::size_t row = 0; row < 5; ++row) {
      double sum = 0;
      for (std::size_t c = 0; c < 7; ++c) sum += gradient[row * 7 + c];
      EXPECT_NEAR(sum, 0, 1e-14) << "row " << row;
    }
  }
}

// Everything is a mean over the batch: twice the same batch has the same losses and half the gradients.
TEST_P(EveryLoss, DuplicatedBatch) {
  const ProbeInput once = with_features(random_input(2, 4, 5, 2), 12);
  ProbeInput twice = once;
  twice.rows *= 2;
  for (std::size_t k = 0; k < 2; ++k) {
    const auto repeat = [](Values& to, const Values& values) {
      to.insert(to.end(), values.begin(), values.end());
    };
    repeat(twice.logits[k], once.logits[k]);
    repeat(twice.features[k].values, once.features[k].values);
  }
  twice.labels.insert(twice.labels.end(), once.labels.begin(), once.labels.end());
  // DisWOT's distance of relations divides a sum over pairs of unit rows by B^2: twice the batch, half of it.
  const Settings settings = GetParam() == "diswot" ? Settings{{"diswot.l1", "0"}} : Settings{};
  const ProbeOutput a = probe(GetParam(), once, settings), b = probe(GetParam(), twice, settings);
  EXPECT_TRUE(test::all_near(b.loss, a.loss, 1e-12));
  for (std::size_t k = 0; k < 2; ++k) {
    Values halves = a.grad_logits[k];
    for (double& g : halves) g /= 2;
    halves.insert(halves.end(), halves.begin(), halves.end());
    EXPECT_TRUE(test::all_near(b.grad_logits[k], halves, 1e-12));
  }
}

// Networks with the same logits have nothing to teach each other.
TEST(MethodProperty, IdenticalNetworksLearnFromLabelsAlone) {
  ProbeInput in = random_input(3, 5, 7, 3);
  in.logits[1] = in.logits[2] = in.logits[0];
  const ProbeOutput alone = independent(in);
  const std::vector<std::pair<std::string, Settings>> methods = {
      {"dml", {}},
      {"kdcl-naive", {}},
      {"kdcl-naive", {{"naive.scope", "batch"}}},
      {"kdcl-mean", {}},
      {"kdcl-linear", {}},
      {"kdcl-linear", {{"linear.scope", "batch"}}},
      {"competitive", {}},
      {"kdcl-minlogit", {}},
      {"switokd", {}},
      {"kdcl-general", {}},
      {"kdcl-general", {{"general.neg", "allow"}}}};
  for (const auto& [method, settings] : methods) {
    const ProbeOutput out = probe(method, in, settings);
    EXPECT_TRUE(test::all_near(out.loss, alone.loss, 1e-13)) << method;
    for (std::size_t k = 0; k < 3; ++k)
      EXPECT_TRUE(test::all_near(out.grad_logits[k], alone.grad_logits[k], 1e-13)) << method;
  }
}

TEST(MethodProperty, PermutingNetworksPermutesResults) {
  const ProbeInput in = random_input(3, 5, 7, 4);
  ProbeInput turned = in;
  for (std::size_t k = 0; k < 3; ++k) turned.logits[k] = in.logits[(k + 1) % 3];
  const std::vector<std::pair<std::string, Settings>> methods = {{"independent", {}},   {"dml", {}},
                                                                 {"kdcl-naive", {}},    {"kdcl-mean", {}},
                                                                 {"kdcl-minlogit", {}}, {"competitive", {}}};
  for (const auto& [method, settings] : methods) {
    const ProbeOutput a = probe(method, in, settings), b = probe(method, turned, settings);
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_NEAR(b.loss[k], a.loss[(k + 1) % 3], 1e-13) << method;
      EXPECT_TRUE(test::all_near(b.grad_logits[k], a.grad_logits[(k + 1) % 3], 1e-13)) << method;
    }
  }
  // Frank-Wolfe ends where it is good enough; two networks have an exact answer.
  ProbeInput two = in, swapped = in;
  two.logits = {in.logits[0], in.logits[1]};
  swapped.logits = {in.logits[1], in.logits[0]};
  for (const char* scope : {"sample", "batch"}) {
    const ProbeOutput a = probe("kdcl-linear", two, {{"linear.scope", scope}});
    const ProbeOutput b = probe("kdcl-linear", swapped, {{"linear.scope", scope}});
    for (std::size_t k = 0; k < 2; ++k)
      EXPECT_TRUE(test::all_near(b.grad_logits[k], a.grad_logits[1 - k], 1e-9)) << scope;
  }
}

// CE_k + T^2 KL(target -> z_k) of one network's logits, with the target as a constant.
double shared_target_loss(const ProbeInput& in, const Values& z, const Values& target, double temperature) {
  double total = 0;
  for (std::size_t b = 0; b < in.labels.size(); ++b) {
    const auto classes = static_cast<std::size_t>(in.classes);
    const auto log_softmax = [&](std::size_t c, double t) {
      double sum = 0;
      for (std::size_t i = 0; i < classes; ++i) sum += std::exp(z[b * classes + i] / t);
      return z[b * classes + c] / t - std::log(sum);
    };
    total -= log_softmax(static_cast<std::size_t>(in.labels[b]), 1);
    for (std::size_t c = 0; c < classes; ++c) {
      const double p = target[b * classes + c];
      total += temperature * temperature * p * (std::log(p) - log_softmax(c, temperature));
    }
  }
  return total / static_cast<double>(in.rows);
}

// Differences of five points of the loss around every logit.
TEST(MethodProperty, GradientsOfSharedTargetsAreThoseOfTheLoss) {
  const ProbeInput in = random_input(3, 2, 4, 5);
  for (const char* method : {"kdcl-naive", "kdcl-minlogit", "kdcl-mean", "kdcl-linear", "kdcl-general"}) {
    const ProbeOutput out = probe(method, in);
    for (std::size_t k = 0; k < 3; ++k) {
      EXPECT_NEAR(out.loss[k], shared_target_loss(in, in.logits[k], out.target, 2), 1e-12) << method;
      for (std::size_t i = 0; i < in.logits[k].size(); ++i) {
        const auto at = [&](double h) {
          Values z = in.logits[k];
          z[i] += h;
          return shared_target_loss(in, z, out.target, 2);
        };
        constexpr double h = 1e-3;
        const double difference = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
        EXPECT_NEAR(out.grad_logits[k][i], difference, 1e-9) << method << " member " << k << " at " << i;
      }
    }
  }
}

}  // namespace
}  // namespace cohort::distill
