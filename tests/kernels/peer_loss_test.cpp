#include "kernels/peer_loss.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/base/error.h"
#include "tests/support/cohort_case.h"

namespace cohort::test {
namespace {

using kernels::PeerForm;

std::size_t workspace_on(const Place& place, [[maybe_unused]] const kernels::CohortLossShape& shape) {
  if (place.device == Device::kCpu) return kernels::peer_loss_workspace(place.cpu, shape);
  if constexpr (kHasDevice) return kernels::peer_loss_workspace(CudaStream{}, shape);
  return 0;
}

template <class T>
struct Peers {
  using A = Accumulator<T>;
  struct Result {
    std::vector<A> loss, kl, value;
    std::vector<std::vector<T>> grad;
  };

  CohortCase<T> c;
  std::vector<A> weight;
  PeerForm form = PeerForm::kKl;
  double temperature = 2;
  bool t_squared = true;
  bool accumulate = false;  // into ones

  Result run(Place place) const {
    OnDevice on(place);
    kernels::PeerLossArgs args{.shape = {dtype_of<T>(), c.members, c.rows, c.classes}};
    const auto size = static_cast<std::size_t>(c.rows * c.classes);
    const auto members = static_cast<std::size_t>(c.members);
    std::vector<Guarded<T>> grad;
    for (std::size_t m = 0; m < members; ++m)
      grad.push_back(accumulate ? Guarded<T>(std::vector<T>(size, static_cast<T>(1.0F)), c.misalign)
                                : Guarded<T>(size, c.misalign));
    for (std::size_t m = 0; m < members; ++m) {
      args.logits[m] = on(c.logits[m]);
      args.grad_logits[m] = on(grad[m]);
      args.grad_mode[m] = accumulate ? GradMode::kAccumulate : GradMode::kOverwrite;
    }
    Guarded<A> loss(std::vector<A>(members, A{1})), kl(std::vector<A>(members, A{2})), value(members);
    args.weight = on(weight);
    args.form = form;
    args.temperature = temperature;
    args.t_squared = t_squared;
    args.valid_rows = c.valid < 0 ? nullptr : on(c.valid);
    args.loss = on(loss);
    args.kl = on(kl);
    args.value = on(value);
    Scratch scratch(workspace_on(place, args.shape));
    const Workspace workspace = on(scratch);
    on.run([&](auto stream) { kernels::peer_loss(stream, args, workspace); });
    EXPECT_TRUE(loss.intact() && kl.intact() && value.intact() && scratch.intact());
    Result r{loss.values(), kl.values(), value.values(), {}};
    for (const Guarded<T>& g : grad) {
      EXPECT_TRUE(g.intact());
      r.grad.push_back(g.values());
    }
    return r;
  }
};

std::vector<double> softmax(std::vector<double> z, double temperature) {
  double sum = 0;
  for (double& v : z) sum += v = std::exp(v / temperature);
  for (double& v : z) v /= sum;
  return z;
}

// One row: of the target and a head's logits.
double term(const std::vector<double>& q, const std::vector<double>& z, double temperature, PeerForm form) {
  const std::vector<double> s = softmax(z, temperature);
  double sum = 0;
  for (std::size_t k = 0; k < q.size(); ++k)
    sum += q[k] * ((form == PeerForm::kKl ? std::log(q[k]) : 0) - std::log(s[k]));
  return sum;
}

template <class Param>
class PeerLoss : public TypedDeviceTest<Param> {};
using Types = OnDevices<float, bf16, double>;
TYPED_TEST_SUITE(PeerLoss, Types, DeviceNames);

// Two heads, T = 2: CLNN's J less its cross-entropies.
TYPED_TEST(PeerLoss, Golden) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  if (std::is_same_v<T, bf16>) GTEST_SKIP() << "the golden logits are no bf16 numbers";
  const double tol = std::is_same_v<T, double> ? 2e-6 : 1e-5;
  Peers<T> peers{golden_case<T>(2), std::vector<A>(2, static_cast<A>(0.5)), PeerForm::kCrossEntropy};
  const auto r = peers.run(TypeParam::device);
  EXPECT_TRUE(all_near(
      r.loss, std::vector<double>{1 + 2.823160 - 0.5 * 0.690169, 1 + 2.782037 - 0.5 * 0.707557}, tol));
  peers.t_squared = false;
  EXPECT_NEAR(static_cast<double>(peers.run(TypeParam::device).loss[0]), 1 + 0.964603 - 0.5 * 0.690169, tol);
}

// Values against the formula, gradients against differences of it over five points.
TYPED_TEST(PeerLoss, AgreesWithItsFormula) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  const double tol = std::is_same_v<T, double> ? 1e-9 : 2e-5;
  const double rounding = std::is_same_v<T, bf16> ? 4e-3 : 0;  // of gradients written as bf16
  for (const int classes : {1, 2, 3, 7, 31, 33}) {
    const int members = classes == 33 ? 16 : 2 + classes % 3;
    const int rows = classes == 7 ? 33 : 3;
    Peers<T> peers{CohortCase<T>::random(members, rows, classes, rng),
                   rng.uniforms<A>(static_cast<std::size_t>(members), 0, 2),
                   classes % 2 == 0 ? PeerForm::kKl : PeerForm::kCrossEntropy};
    peers.c.misalign = static_cast<std::size_t>(classes % 3);
    peers.c.valid = classes == 31 ? 2 : -1;
    const int valid = peers.c.valid < 0 ? rows : peers.c.valid;
    const double scale = peers.temperature * peers.temperature / valid;
    std::vector<double> value(static_cast<std::size_t>(members), 0.0);
    std::vector<std::vector<double>> gradient(
        static_cast<std::size_t>(members),
        std::vector<double>(static_cast<std::size_t>(rows * classes), 0.0));
    for (int b = 0; b < valid; ++b) {
      std::vector<std::vector<double>> z;
      for (const auto& logits : peers.c.logits) {
        z.emplace_back();
        for (int k = 0; k < classes; ++k)
          z.back().push_back(static_cast<double>(logits[static_cast<std::size_t>(b * classes + k)]));
      }
      for (std::size_t i = 0; i < z.size(); ++i) {
        std::vector<double> mean(z[i].size(), 0.0);
        for (std::size_t j = 0; j < z.size(); ++j)
          for (std::size_t k = 0; k < mean.size(); ++k) mean[k] += i == j ? 0 : z[j][k] / (members - 1);
        const std::vector<double> q = softmax(mean, peers.temperature);
        value[i] += scale * term(q, z[i], peers.temperature, peers.form);
        for (std::size_t k = 0; k < z[i].size(); ++k) {
          const auto at = [&](double h) {
            std::vector<double> moved = z[i];
            moved[k] += h;
            return term(q, moved, peers.temperature, peers.form);
          };
          constexpr double h = 1e-2;
          gradient[i][static_cast<std::size_t>(b * classes) + k] =
              static_cast<double>(peers.weight[i]) * scale *
              (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
        }
      }
    }
    for_each_place(TypeParam::device, [&](Place place) {
      const auto r = peers.run(place);
      for (std::size_t i = 0; i < value.size(); ++i) {
        const double weighted = static_cast<double>(peers.weight[i]) * value[i];
        EXPECT_NEAR(static_cast<double>(r.value[i]), value[i], tol * (1 + value[i])) << classes;
        EXPECT_NEAR(static_cast<double>(r.loss[i]), 1 + weighted, tol * (1 + weighted)) << classes;
        EXPECT_NEAR(static_cast<double>(r.kl[i]), 2 + weighted, tol * (2 + weighted)) << classes;
        EXPECT_TRUE(all_within(r.grad[i], gradient[i], [&](std::size_t k) {
          return tol + rounding * std::abs(gradient[i][k]);
        })) << classes;
      }
    });
  }
}

TYPED_TEST(PeerLoss, WeightsOfZeroAccumulationAndRowsThatDoNotCount) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Peers<T> peers{CohortCase<T>::random(3, 4, 5, rng), {A{0}, A{1}, A{1}}};
  peers.c.valid = 3;
  const auto plain = peers.run(TypeParam::device);
  EXPECT_EQ(plain.loss[0], A{1});
  EXPECT_EQ(plain.kl[0], A{2});
  EXPECT_EQ(plain.value[0], A{0});
  for (const T g : plain.grad[0]) EXPECT_EQ(static_cast<A>(g), A{0});
  peers.accumulate = true;
  const auto added = peers.run(TypeParam::device);
  for (std::size_t m = 0; m < 3; ++m) {
    for (std::size_t i = 0; i < 20; ++i) {
      const double sum = 1 + static_cast<double>(static_cast<A>(plain.grad[m][i]));
      EXPECT_NEAR(static_cast<double>(static_cast<A>(added.grad[m][i])), sum,
                  3 * unit_roundoff(dtype_of<T>()) * (1 + std::abs(sum)));
      if (i < 15 && m > 0) continue;
      EXPECT_EQ(static_cast<A>(added.grad[m][i]), A{1});
    }
  }
}

TYPED_TEST(PeerLoss, EqualExtremeAndSickHeads) {
  using T = typename TypeParam::Type;
  using A = Accumulator<T>;
  Random rng(base_seed());
  Peers<T> peers{CohortCase<T>::random(2, 3, 6, rng), {A{1}, A{1}}};
  peers.c.logits[1] = peers.c.logits[0];
  const auto same = peers.run(TypeParam::device);
  EXPECT_EQ(same.loss, (std::vector<A>{A{1}, A{1}}));
  for (const T g : same.grad[1]) EXPECT_EQ(static_cast<A>(g), A{0});
  peers.c.logits[0][0] = static_cast<T>(3e30F);
  peers.c.logits[1][1] = static_cast<T>(-3e30F);
  const auto far = peers.run(TypeParam::device);
  for (const T g : far.grad[0]) EXPECT_TRUE(std::isfinite(static_cast<A>(g)));
  peers.c.logits[1][7] = static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  const auto sick = peers.run(TypeParam::device);
  EXPECT_TRUE(std::isnan(sick.loss[0]));
  EXPECT_TRUE(std::isnan(static_cast<A>(sick.grad[1][6])));
  EXPECT_TRUE(std::isfinite(static_cast<A>(sick.grad[0][13]))) << "of another row";
}

class PeerLossContract : public DeviceTest {};
COHORT_INSTANTIATE_DEVICES(PeerLossContract);

TEST_P(PeerLossContract, RefusesWhatItCannotDo) {
  const float value = 0;
  const auto refused = [&](kernels::PeerLossArgs args, bool weight = true) {
    OnDevice on(GetParam());
    std::vector<std::byte> memory(4096);
    args.logits[0] = args.logits[1] = &value;
    if (weight) args.weight = &value;
    EXPECT_THROW(on.run([&](auto stream) { kernels::peer_loss(stream, args, memory); }), Error);
  };
  refused({.shape = {DType::f32, 1, 1, 2}});
  refused({.shape = {DType::f32, 2, 1, 0}});
  refused({.shape = {DType::f32, 2, 1, 2}, .temperature = 0});
  refused({.shape = {DType::f32, 2, 1, 2}}, false);
}

}  // namespace
}  // namespace cohort::test
