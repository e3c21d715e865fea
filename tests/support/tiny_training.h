// A cohort of small networks on a handful of 8x8 images: whole training runs that take a second.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "distill/addition.h"
#include "distill/trainer.h"
#include "kernels/base/philox.h"

namespace cohort::test {

using namespace distill;  // NOLINT: a fixture of distill's tests

// Every class is a random pattern; every image its class's pattern in noise.
inline ImageSet patterns(std::int64_t count, int classes, std::uint64_t seed, std::uint32_t part) {
  ImageSet set;
  set.name = "patterns";
  set.height = set.width = 8;
  set.channels = 3;
  set.num_classes = classes;
  for (int c = 0; c < 3; ++c) {
    set.normalisation.mean[c] = 0.5;
    set.normalisation.std[c] = 0.25;
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const auto label = static_cast<std::int32_t>(i % classes);
    set.labels.push_back(label);
    Rng pattern({.seed = seed, .sample = static_cast<std::uint32_t>(label)});
    Rng noise({.seed = seed, .epoch = 1 + part, .sample = static_cast<std::uint32_t>(i)});
    for (int p = 0; p < 8 * 8 * 3; ++p) {
      set.images.push_back(static_cast<std::uint8_t>((pattern.bits() % 128) + (noise.bits() % 128)));
    }
  }
  return set;
}

struct Recorder : TrainerObserver {
  std::vector<StepRecord> steps;
  std::vector<EpochRecord> epochs;
  std::int64_t stop_at = -1;
  void on_step(const StepRecord& r) override { steps.push_back(r); }
  void on_epoch(const EpochRecord& r) override { epochs.push_back(r); }
  StopRequest poll() override {
    return static_cast<std::int64_t>(steps.size()) == stop_at ? StopRequest::kTerminate : StopRequest::kNone;
  }
};

// Every method there is, as parameters of a test, and their names as parts of a test's name.
inline std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const MethodInfo& info : registry()) names.push_back(info.name);
  return names;
}
struct MethodAsTestName {
  template <class P>
  std::string operator()(const P& parameter) const {
    std::string name = parameter.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
  }
};

// Two networks for any method, of different models where it can train such.
inline std::vector<std::string> two_models(const std::string& method) {
  const bool branches = method == "one" || method == "clnn";
  return {"resnet8", branches ? "resnet8" : "wrn_16_2"};
}

struct RunOptions {
  std::string method = "dml";
  std::string add = {};  // an addition to it
  std::vector<std::pair<std::string, std::string>> settings = {};
  std::vector<std::string> models = {"resnet8", "resnet8"};
  int threads = 2;
  Precision precision = Precision::kF32;
  bool poison = false;
  int epochs = 2;
  double learning_rate = 0.05;
  NanPolicy nan = NanPolicy::kStop;
  bool augment = true;
  cohort::Device device = {};  // test::Device is another
  bool graph = true;
  std::int64_t images = 100;  // for training and holding out; 0.4 of that for the test
  int batch_size = 32;
  bool independent_augmentation = false;
  Placement placement = {};
  std::function<std::unique_ptr<Method>(std::unique_ptr<Method>)> wrap = {};  // around the method
};

class TestRun {
 public:
  explicit TestRun(const RunOptions& o)
      : train_(patterns(o.images, 5, 3, 0)),
        test_(patterns(o.images * 2 / 5, 5, 3, 1)),
        ctx_({.device = o.device,
              .precision = o.precision,
              .num_threads = o.threads,
              .num_branches = static_cast<int>(o.models.size()),
              .seed = 7,
              .graph = o.graph,
              .poison = o.poison}) {
    const MethodInfo& info = find_method(o.method);
    MethodOptions options(info.options);
    for (const auto& [key, value] : o.settings) options.set(key, value);
    std::vector<MemberSpec> specs;
    for (std::size_t k = 0; k < o.models.size(); ++k) {
      specs.push_back({std::string(1, static_cast<char>('a' + k)), o.models[k], o.learning_rate});
    }
    cohort = std::make_unique<Cohort>(
        ctx_, specs, make_method(o, options), train_,
        CohortOptions{.sgd = {},
                      .augment = o.augment ? kernels::AugmentOptions{} : kernels::kNoAugment,
                      .independent_augmentation = o.independent_augmentation});
    TrainerData data{&train_, {}, {}, &test_};
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(o.images); ++i)
      (i % 9 == 0 ? data.held_out_indices : data.train_indices).push_back(i);
    trainer = std::make_unique<Trainer>(ctx_, *cohort, data,
                                        TrainerOptions{.epochs = o.epochs,
                                                       .batch_size = o.batch_size,
                                                       .schedule = {},
                                                       .nan = o.nan,
                                                       .placement = o.placement},
                                        recorder);
  }

  static std::unique_ptr<Method> make_method(const RunOptions& o, const MethodOptions& options) {
    std::unique_ptr<Method> method = find_method(o.method).make(options);
    if (o.wrap) method = o.wrap(std::move(method));
    if (o.add.empty()) return method;
    const AdditionInfo& addition = find_addition(o.add);
    return addition.add(std::move(method), MethodOptions(addition.options));
  }

  Context& context() { return ctx_; }
  ParameterSet& parameters(std::size_t k) { return cohort->members()[k].network->parameters(); }
  std::vector<double> weights(std::size_t k) { return download_values(ctx_, parameters(k).values()); }

 private:
  ImageSet train_, test_;
  Context ctx_;

 public:
  Recorder recorder;
  std::unique_ptr<Cohort> cohort;
  std::unique_ptr<Trainer> trainer;
};

}  // namespace cohort::test
