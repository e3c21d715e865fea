// SHAKE's shadow head: its parts, what learns from it and what does not, and its own part of the loss.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/gradcheck.h"
#include "distill/method_probe.h"
#include "tests/support/random.h"

namespace cohort::distill {
namespace {

using Values = std::vector<double>;
using Settings = std::vector<std::pair<std::string, std::string>>;

ProbeOutput run(const ProbeInput& in, const Settings& settings = {}) {
  const MethodInfo& info = find_method("shake");
  MethodOptions options(info.options);
  for (const auto& [key, value] : settings) options.set(key, value);
  return probe_method(*info.make(options), in);
}

// A teacher with four maps, whose last three the head stands on, and a student.
ProbeInput pair() {
  test::Random random(test::base_seed() + 5);
  ProbeInput in{.rows = 3, .classes = 4, .labels = {3, 0, 2}};
  const auto map = [&](std::int64_t channels, std::int64_t side) {
    return ProbeMap{channels, side, side,
                    random.normals<double>(static_cast<std::size_t>(3 * channels * side * side))};
  };
  for (int k = 0; k < 2; ++k) {
    in.logits.push_back(random.normals<double>(12));
    in.earlier.push_back({map(2, 8), map(2, 8), map(3, 4)});
    in.features.push_back(map(5, 2));
    in.classifiers.push_back({random.normals<double>(20), random.normals<double>(4)});
  }
  return in;
}

TEST(Shake, TheHeadStandsOnTheTeachersLastThreeMaps) {
  const ProbeInput in = pair();
  const ProbeOutput out = run(in);
  std::set<std::string> names;
  for (const ProbeParameter& p : out.parameters) {
    EXPECT_EQ(p.member, 1) << "the student's optimiser";
    names.insert(p.name);
    const double largest = std::abs(*std::max_element(
        p.gradient.begin(), p.gradient.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
    EXPECT_GT(largest, 1e-6) << p.name;
    if (p.name == "shadow.c1.conv.weight") {
      EXPECT_EQ(p.dims, (std::vector<std::int64_t>{3, 2, 3, 3}));
    }
    if (p.name == "shadow.c4.conv.weight") {
      EXPECT_EQ(p.dims, (std::vector<std::int64_t>{5, 5, 1, 1}));
    }
  }
  EXPECT_EQ(names.size(), 15U) << "five convolutions, each with two vectors of its normalisation";
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(out.grad_earlier[0][i], Values(in.earlier[0][i].values.size(), 0.0)) << "the teacher's maps";
  EXPECT_EQ(out.grad_classifiers[0].weight, Values(20, 0.0)) << "its classifier, which the head uses";
  // The first map is not looked at, the others are.
  ProbeInput other = in;
  other.earlier[0][0].values[0] += 1;
  EXPECT_EQ(run(other).loss, out.loss);
  other.earlier[0][1].values[0] += 1;
  EXPECT_NE(run(other).loss, out.loss);
}

TEST(Shake, GradientsOfTheLogitsAreThoseOfTheLoss) {
  ProbeInput in = pair();
  for (const char* standardised : {"true", "false"}) {
    // Without the terms whose targets are the student's own logits.
    const Settings settings = {
        {"shake.b", "0"}, {"shake.a", "0.7"}, {"shake.g", "0.4"}, {"shake.ln", standardised}};
    const ProbeOutput at = run(in, settings);
    EXPECT_EQ(
        gradcheck([&] { return run(in, settings).loss[1]; }, in.logits[1].data(), 12, at.grad_logits[1]), "");
  }
}

TEST(Shake, WrongRolesAndMissingMapsAreRefused) {
  ProbeInput in = pair();
  EXPECT_THROW(run(in, {{"shake.shadow", "net"}}), Error) << "two networks";
  ProbeInput bare = in;
  bare.classifiers.clear();
  EXPECT_THROW(run(bare), Error);
  ProbeInput odd = in;
  odd.earlier[0][1] = {2, 7, 7, Values(3 * 2 * 49, 1.0)};
  EXPECT_THROW(run(odd), Error) << "7x7 over 4x4";
}

}  // namespace
}  // namespace cohort::distill
