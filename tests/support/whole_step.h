// One step of a tiny cohort in double, on the same images every time and with learning rate 0: its losses,
// and the gradients that it leaves against differences of them. Targets are constants of a step, so a method
// is looked at with its soft terms off, or with teachers that do not learn.
#pragma once

#include <gtest/gtest.h>

#include <numeric>

#include "tests/support/tiny_training.h"

namespace cohort::test {

class WholeStep {
 public:
  explicit WholeStep(RunOptions o)
      : run(in_double(std::move(o))),
        set_(patterns(kImages, 5, 3, 0)),
        images_(to_device(run.context(), set_)),
        feed_(run.cohort->make_feed(images_, indices(), kImages / run.cohort->batches_per_step(),
                                    /*shuffle=*/false)) {}

  // Of all members together.
  double loss() {
    const std::vector<double> rates(run.cohort->members().size(), 0.0);
    feed_.start(0, 0, run.cohort->rate_table({rates}));
    const std::int64_t step = feed_.step();
    run.cohort->train(feed_);
    const std::vector<double> losses = run.cohort->values(step).loss;
    return std::accumulate(losses.begin(), losses.end(), 0.0);
  }

  // Some elements of the parameter; `factor`: of the loss's gradient that is to be there; `h`: the step,
  // small where a maximum over many may change hands within it.
  void expect_gradient(const ParameterSet& set, const std::string& name, double factor = 1, double h = 1e-5) {
    for (const Parameter& p : set.parameters()) {
      if (p.name != name) continue;
      loss();
      const std::vector<double> gradient = download_values(run.context(), p.grad),
                                values = download_values(run.context(), p.value);
      double largest = 0;
      for (const double g : gradient) largest = std::max(largest, std::abs(g));
      EXPECT_GT(largest, 0) << name;
      const std::size_t last = values.size() - 1;
      for (const std::size_t at : {std::size_t{0}, last / 2, last}) {
        const auto moved = [&](double step) {
          std::vector<double> v = values;
          v[at] += step;
          upload_values(run.context(), p.value, v);
          return loss();
        };
        const double difference = (moved(h) - moved(-h)) / (2 * h);
        EXPECT_NEAR(gradient[at], factor * difference, 1e-6 * (1 + largest)) << name << " at " << at;
      }
      upload_values(run.context(), p.value, values);
      return;
    }
    ADD_FAILURE() << "no parameter " << name;
  }

 private:
  static constexpr std::int64_t kImages = 12;
  static std::vector<std::int32_t> indices() {
    std::vector<std::int32_t> all(kImages);
    std::iota(all.begin(), all.end(), 0);
    return all;
  }
  static RunOptions in_double(RunOptions o) {
    o.precision = Precision::kF64;
    o.learning_rate = 0;
    o.augment = false;
    return o;
  }

 public:
  TestRun run;

 private:
  ImageSet set_;
  DeviceImages images_;
  Feed feed_;
};

}  // namespace cohort::test
