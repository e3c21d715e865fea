// One call of kernels::cohort_loss with everything it reads and writes, and the golden fixture of the method
// specification.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/cohort_loss.h"
#include "tests/support/devices.h"
#include "tests/support/guard.h"
#include "tests/support/random.h"
#include "tests/support/tolerance.h"

namespace cohort::test {

// Where cases made from now on run unless told otherwise; fixtures of tests on several devices set it.
inline Device& case_device() {
  static Device device = Device::kCpu;
  return device;
}

inline std::size_t device_workspace([[maybe_unused]] const kernels::CohortLossShape& shape) {
  if constexpr (kHasDevice) return kernels::cohort_loss_workspace(CudaStream{}, shape);
  return 0;
}

template <class T>
struct CohortCase {
  using A = Accumulator<T>;

  struct Result {
    std::vector<std::vector<T>> grad;
    std::vector<A> loss, ce, kl, kl_pair, target_kl, ce_rows, target;
    std::vector<std::int32_t> winner, top1, top5;
    // Of a decision.
    std::int32_t teacher = -2;
    std::vector<std::int32_t> row_winner;
    std::vector<A> weights, feature_weights;
  };
  struct Decision {
    kernels::SelectRule rule = kernels::SelectRule::kArgmin;
    double kl = 1, feature = 0;
    std::int32_t masked = -1;
    bool in_steps = false;  // by three calls
  };

  int members = 1;
  int rows = 1;
  int classes = 2;
  std::vector<std::vector<T>> logits;
  std::vector<std::int32_t> labels;
  std::vector<std::int32_t> mixed_labels;
  std::vector<A> mixed_weights;
  std::int32_t mixed_member = -1;
  double temperature = 1;
  bool t_squared = true;
  bool attached = false;
  bool all_pairs = false;
  kernels::TargetRule rule = kernels::TargetRule::kNone;
  std::vector<A> given;
  std::vector<A> ce_weight, kl_weight, target_weight;
  std::int32_t valid = -1;                 // -1: no device scalar
  std::vector<std::vector<T>> accumulate;  // not empty: kAccumulate into these
  std::size_t misalign = 0;
  std::optional<Decision> decision;  // then kl_weight is not read
  Place place = case_device();

  CohortCase() = default;
  CohortCase(int num_members, int num_rows, int num_classes)
      : members(num_members),
        rows(num_rows),
        classes(num_classes),
        ce_weight(static_cast<std::size_t>(num_members), A{1}),
        kl_weight(static_cast<std::size_t>(num_members * num_members), A{0}),
        target_weight(static_cast<std::size_t>(num_members), A{0}) {}

  static CohortCase random(int members, int rows, int classes, Random& rng, double sigma = 2) {
    CohortCase c(members, rows, classes);
    for (int m = 0; m < members; ++m) {
      c.logits.push_back(rng.normals<T>(static_cast<std::size_t>(rows * classes), 0, sigma));
    }
    c.labels = rng.integers<std::int32_t>(static_cast<std::size_t>(rows), 0, classes - 1);
    return c;
  }

  A& w(int i, int j) { return kl_weight[static_cast<std::size_t>(i * members + j)]; }
  // Everyone learns from everyone else.
  void mutual(double weight) {
    for (int i = 0; i < members; ++i) {
      for (int j = 0; j < members; ++j) w(i, j) = i == j ? A{0} : static_cast<A>(weight);
    }
  }
  void share_target(kernels::TargetRule target_rule, double weight) {
    rule = target_rule;
    target_weight.assign(static_cast<std::size_t>(members), static_cast<A>(weight));
  }

  Result run() const { return run(place); }
  Result run(Place on_place) const;

 private:
  kernels::CohortLossArgs inputs(OnDevice& on) const;
};

// Everything that is read, but the logits.
template <class T>
kernels::CohortLossArgs CohortCase<T>::inputs(OnDevice& on) const {
  kernels::CohortLossArgs args{.shape = {dtype_of<T>(), members, rows, classes}};
  args.labels = on(labels);
  if (mixed_member >= 0) {
    args.mixed_labels = on(mixed_labels);
    args.mixed_weights = on(mixed_weights);
    args.mixed_member = on(mixed_member);
  }
  args.temperature = temperature;
  args.t_squared = t_squared;
  args.attached = attached;
  args.all_pairs = all_pairs;
  args.target_rule = rule;
  args.given_target = given.empty() ? nullptr : on(given);
  args.ce_weight = on(ce_weight);
  if (decision) {
    args.decision = {.rule = decision->rule, .kl = decision->kl, .feature = decision->feature};
    args.decision.masked_member = on(decision->masked);
  } else {
    args.kl_weight = on(kl_weight);
  }
  args.target_weight = on(target_weight);
  args.valid_rows = valid < 0 ? nullptr : on(valid);
  return args;
}

template <class T>
typename CohortCase<T>::Result CohortCase<T>::run(Place on_place) const {
  const auto size = static_cast<std::size_t>(rows * classes);
  const auto m = static_cast<std::size_t>(members);
  const auto n = static_cast<std::size_t>(rows);
  OnDevice on(on_place);
  kernels::CohortLossArgs args = inputs(on);
  std::vector<Guarded<T>> z;
  std::vector<Guarded<T>> grad;
  for (std::size_t k = 0; k < m; ++k) {
    z.emplace_back(logits[k], misalign);
    if (accumulate.empty()) {
      grad.emplace_back(size, misalign);
    } else {
      grad.emplace_back(accumulate[k], misalign);
      args.grad_mode[k] = GradMode::kAccumulate;
    }
  }
  for (std::size_t k = 0; k < m; ++k) {
    args.logits[k] = on(z[k]);
    args.grad_logits[k] = on(grad[k]);
  }
  Guarded<A> loss(m), ce(m), kl(m), pair(m * m), target_kl(m), ce_rows(m * n), target(size);
  Guarded<std::int32_t> winner(n), top1(m), top5(m);
  args.loss = on(loss);
  args.ce = on(ce);
  args.kl = on(kl);
  args.kl_pair = on(pair);
  args.target_kl = on(target_kl);
  args.ce_rows = on(ce_rows);
  const bool has_target = rule != kernels::TargetRule::kNone;
  if (has_target) args.target = on(target);
  args.winner = on(winner);
  args.correct_top1 = on(top1);
  args.correct_top5 = on(top5);
  Guarded<std::int32_t> teacher(1), row_winner(n);
  Guarded<A> weights(m * m), feature_weights(m * m);
  if (decision) {
    args.decision.teacher = on(teacher);
    args.decision.row_winner = on(row_winner);
    args.decision.kl_weight = on(weights);
    args.decision.feature_weight = on(feature_weights);
  }
  const bool cpu = on_place.device == Device::kCpu;
  Scratch scratch(cpu ? kernels::cohort_loss_workspace(on_place.cpu, args.shape)
                      : device_workspace(args.shape));
  const Workspace workspace = on(scratch);
  on.run([&](auto stream) {
    if (decision && decision->in_steps) return kernels::cohort_loss_in_steps(stream, args, workspace);
    kernels::cohort_loss(stream, args, workspace);
  });
  EXPECT_TRUE(scratch.intact());
  Result r;
  for (std::size_t k = 0; k < m; ++k) {
    EXPECT_TRUE(z[k].intact());
    EXPECT_TRUE(same_bits(z[k].values(), logits[k]));
    EXPECT_TRUE(grad[k].intact());
    r.grad.push_back(grad[k].values());
  }
  for (const Guarded<A>* g :
       {&loss, &ce, &kl, &pair, &target_kl, &ce_rows, &target, &weights, &feature_weights})
    EXPECT_TRUE(g->intact());
  for (const Guarded<std::int32_t>* g : {&winner, &top1, &top5, &teacher, &row_winner})
    EXPECT_TRUE(g->intact());
  r.loss = loss.values();
  r.ce = ce.values();
  r.kl = kl.values();
  r.kl_pair = pair.values();
  r.target_kl = target_kl.values();
  r.ce_rows = ce_rows.values();
  if (has_target) r.target = target.values();
  if (has_target) r.winner = winner.values();
  r.top1 = top1.values();
  r.top5 = top5.values();
  if (!decision) return r;
  r.teacher = teacher[0];
  r.row_winner = row_winner.values();
  r.weights = weights.values();
  r.feature_weights = feature_weights.values();
  return r;
}

// Two networks, two samples, three classes; z3 is the third network.
inline const std::vector<double> kGoldenZ1 = {2.0, 1.2, -0.5, 0.9, 0.6, -0.8};
inline const std::vector<double> kGoldenZ2 = {1.0, -0.5, 1.2, -0.6, 1.4, 0.8};
inline const std::vector<double> kGoldenZ3 = {1.5, 0.3, 0.2, 0.1, 1.2, 0.4};

template <class T>
CohortCase<T> golden_case(int members) {
  CohortCase<T> c(members, 2, 3);
  for (const auto* z : {&kGoldenZ1, &kGoldenZ2, &kGoldenZ3}) {
    if (static_cast<int>(c.logits.size()) < members) c.logits.emplace_back(z->begin(), z->end());
  }
  c.labels = {0, 1};
  return c;
}

}  // namespace cohort::test
