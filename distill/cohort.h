// The networks that are trained together, and one training step of all of them: fork, join, method, fork,
// join, update.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/image_set.h"
#include "core/step_plan.h"
#include "distill/method.h"
#include "nn/sgd.h"

namespace cohort::distill {

struct MemberSpec {
  std::string id;              // "a", "b", ...: names its files and its columns
  std::string model;           // models/registry.h
  double learning_rate = 0.1;  // base rate, before the schedule
  double weight_decay = 5e-4;
};

// A data set as kernels see it: bytes and labels in device memory.
struct DeviceImages {
  Tensor images;  // (N, H, W, C) u8
  Tensor labels;  // (N) i32
};
DeviceImages to_device(Context& ctx, const ImageSet& set);

struct CohortOptions {
  nn::SgdOptions sgd;
  bool augment = true;                    // pad 4, crop, flip; false: normalise only
  bool independent_augmentation = false;  // every member draws its own views (ICL)
};

class Cohort {
 public:
  struct Member {
    MemberSpec spec;
    std::unique_ptr<models::Network> network;
    bool frozen = false;
    std::int64_t batches_tracked = 0;  // training forwards: PyTorch's num_batches_tracked
    std::vector<LayerRecord> layers = {};
  };

  // Builds and initialises the networks (seeded by the context) for the classes and images of `data`.
  Cohort(Context& ctx, const std::vector<MemberSpec>& specs, std::unique_ptr<Method> method,
         const ImageSet& data, const CohortOptions& options);
  ~Cohort();

  int size() const { return static_cast<int>(members_.size()); }
  std::vector<Member>& members() { return members_; }
  const std::vector<Member>& members() const { return members_; }
  Method& method() { return *method_; }
  // Of the last step.
  const Report& report() const { return plans_.at(last_rows_).report; }
  Context& context() { return ctx_; }

  // One step on images[indices]; `step` counts from 0, `epoch` keys the augmentation. Values are in report()
  // afterwards.
  struct Batch {
    const DeviceImages* images = nullptr;
    std::vector<std::int32_t> indices = {};
    std::int64_t step = 0;
    int epoch = 0;
    std::vector<double> learning_rates = {};  // per member
  };
  void train(const Batch& batch);

  // Members that the last step updated; 0: frozen, or its numbers were not finite.
  std::vector<std::int32_t> stepped();
  // The perturbed member of the last step and its operation (kernels/perturb.h), -1 when none.
  int perturbed_member();
  int perturbation();

  // Evaluation mode, no augmentation: logits of every member for the given images, (indices, classes) each,
  // row-major.
  std::vector<std::vector<float>> predict(const DeviceImages& images,
                                          const std::vector<std::int32_t>& indices);
  // The same for one batch, leaving the outputs on the device until the next step.
  std::vector<models::Outputs> evaluate(const DeviceImages& images, const std::vector<std::int32_t>& indices);

  // Recorded differentiable operations of a full step (0 before the first), and whether steps are replayed.
  int num_recorded_operations() const;
  bool replaying() const;

 private:
  struct Inputs;
  struct Perturbation;
  void load(const Batch& batch);
  void step_once(std::int64_t rows);
  void perturb(StepView& view, const std::vector<Tensor>& batches);
  std::vector<Tensor> make_batches(const DeviceImages& images, std::int64_t rows, bool training);

  Context& ctx_;
  std::vector<Member> members_;
  std::unique_ptr<Method> method_;
  CohortOptions options_;
  std::unique_ptr<Inputs> inputs_;
  std::unique_ptr<Perturbation> perturbation_;
  std::unique_ptr<nn::Sgd> sgd_;
  kernels::Normalisation normalisation_;
  const DeviceImages* images_ = nullptr;
  // One per batch size: the last batch of an epoch may be short.
  struct Plan {
    std::unique_ptr<StepPlan> step;
    Report report;
  };
  std::map<std::int64_t, Plan> plans_;
  std::int64_t last_rows_ = 0;
};

}  // namespace cohort::distill
