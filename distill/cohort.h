// The networks that are trained together, and one training step of all of them: fork, join, method, fork,
// join, update.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/step_plan.h"
#include "distill/feed.h"
#include "distill/method.h"
#include "distill/perturbation.h"
#include "distill/second_update.h"
#include "distill/step_records.h"
#include "kernels/augment_math.h"
#include "nn/sgd.h"

namespace cohort::distill {

struct MemberSpec {
  std::string id;              // "a", "b", ...: names its files and its columns
  std::string model;           // models/registry.h
  double learning_rate = 0.1;  // base rate, before the schedule
  double weight_decay = 5e-4;
};

struct CohortOptions {
  nn::SgdOptions sgd;
  kernels::AugmentOptions augment = {};   // pad 4, crop, flip
  bool independent_augmentation = false;  // every member draws its own views (ICL)
};

class Cohort {
 public:
  struct Member {
    MemberSpec spec;
    std::unique_ptr<models::Network> network;
    bool frozen = false;
    // The network at the end of the epoch before, where the method asks for its answers; zeros until then.
    std::unique_ptr<models::Network> former = nullptr;
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
  // Null where the members' SGD is all.
  const SecondUpdate* second_update() const { return second_update_.get(); }
  Context& context() { return ctx_; }

  // Enqueues the feed's next step (the feed outlives the cohort's last step on it) and moves the feed on. On
  // a GPU the host does not wait: it may be kMaxAhead steps ahead of the values that it has read.
  void train(Feed& feed);
  static constexpr std::int64_t kMaxAhead = StepRecords::kMaxAhead;

  // What a step measured; waits for that step. `step`: Feed::step(), one of the last kMaxAhead.
  struct StepValues {
    std::vector<double> loss, ce, kl, feature;  // per member; loss = everything in force
    std::vector<int> correct_top1;
    std::vector<bool> stepped;  // false: its numbers were not finite
    std::vector<bool> paused;   // by the method: it was not to be updated
    std::vector<int> mode;      // of a teacher 1 (expert) or 0 (learning), else -1
    int teacher = -1;           // the member that taught this batch
    int perturbed = -1;         // the member whose images were perturbed, and how (kernels/perturb.h)
    int operation = -1;
  };
  StepValues values(std::int64_t step);

  // At the end of every epoch: the former networks become what the networks are.
  void end_epoch();

  // Batches that a step takes: of all members the same one, or one of each (UpdateOrder::kNewBatch).
  int batches_per_step() const { return had_turn_.empty() ? 1 : size(); }
  // Images of the member's batch in a step of `rows` images; 0: the epoch had none left for it.
  std::int64_t member_rows(const Feed& feed, std::int64_t rows, std::size_t k) const;

  // A feed for this cohort, batch_size images a batch, and its table of learning rates: one rate per member
  // for each step. Throws Error(kUsage) where there is no batch for every member.
  Feed make_feed(const DeviceImages& images, std::span<const std::int32_t> indices, std::int64_t batch_size,
                 bool shuffle);
  std::vector<float> rate_table(const std::vector<std::vector<double>>& rates) const;

  // Evaluation needs no gradients, so its batch is bounded by memory only; this one keeps a stage of
  // ResNet-32 in a few tens of megabytes.
  static constexpr std::int64_t kEvalBatch = 250;

  // Evaluation mode, no augmentation: logits of every member for the given images, (indices, classes) each,
  // row-major. What it takes is kept for the next time with the same images (their id) and indices.
  std::vector<std::vector<float>> predict(const DeviceImages& images,
                                          const std::vector<std::int32_t>& indices);

  // Recorded differentiable operations of a full step (0 before the first), and whether steps are replayed.
  int num_recorded_operations() const;
  bool replaying() const;
  // The captured graph of a full step and its nodes; empty where there is none.
  kernels::CapturedStep captured_step() const;

 private:
  struct Inputs;
  struct Evaluation;
  // One per feed and batch size: the last batch of an epoch may be short.
  struct Plan {
    std::unique_ptr<StepPlan> step;
    Report report;
  };
  // All members' outputs for the batches, forked and joined.
  struct Walk {
    std::vector<models::Outputs> outputs;
    std::vector<Tensor> former = {};  // per member, as StepView's
    Tensor shared;                    // what the shared parts hand on
    // Of two members that have further parts in common: the shared map with a gradient of its own, what those
    // parts hand on, and the nodes recorded up to there on the first one's branch.
    struct Pair {
      Tensor entry, map;
      std::size_t recorded = 0;
    };
    std::vector<Pair> pairs = {};
    std::vector<Tensor> entries;  // per member the same with a gradient of its own, or what it met last
    // Nodes recorded before each meeting: on the main branch, and per member on its own.
    struct Met {
      std::size_t main = 0;
      std::vector<std::size_t> members = {};
    };
    std::vector<Met> met = {};
    std::size_t main = 0;  // nodes recorded on the main branch in all
  };
  Walk walk(const std::vector<Tensor>& batches, bool training);
  // A member's outputs from what its own parts take, on the current branch.
  models::ForwardOptions how(const Member& member, bool training) const;
  // From parts [done, ...) to the meeting: what the network brings there; `done` moves on.
  Tensor advance(const models::Network& network, Meeting meeting, int& done, const Tensor& x,
                 const models::ForwardOptions& how, models::Outputs& out);
  // From part `done` to the logits.
  void forward(std::size_t k, int done, const Tensor& entry, bool training, models::Outputs& out);
  int first_own_part() const { return std::max(sharing_.parts, sharing_.pair_parts); }
  void walk_pairs(Walk& walked, bool training);
  void backward_pairs(const Walk& walked);
  std::vector<int> walk_to_meetings(Walk& walked, bool training);
  void backward_members(const std::vector<std::size_t>& first);
  void backward_shared(const Walk& walk, const StepView& view);
  void prepare_former(std::size_t k, const ImageSet& data);
  Tensor former_logits(std::size_t k, const Tensor& batch);
  void prepare_turns(bool new_batches);
  void prepare_second_update();
  void reserve(std::int64_t rows);
  void step_once(Feed& feed, Plan& plan, std::int64_t rows);
  void evaluate_once(Evaluation& evaluation, std::int64_t rows);
  // One update: of all members, or of one where they take turns.
  struct Update {
    Report report;
    Tensor mask;  // (M) i32: who was stepped
  };
  std::vector<Update> update_on_one_batch(const Feed& feed, StepView& view, std::int64_t rows);
  Update update_all(StepView& view, const Walk& walked);
  std::vector<Update> update_in_turn(StepView& view, const Walk& walked);
  std::vector<Update> update_with_new_batches(const Feed& feed, StepView& view, std::int64_t rows);
  Update take_turn(StepView& view, std::size_t k);
  void answer_only(std::size_t k, const Tensor& batch, models::Outputs& out);
  void show_rows(StepView& view, std::int64_t first, std::int64_t rows) const;
  void record(const std::vector<Update>& updates);
  // Of the step's images, from number `first` on.
  std::vector<Tensor> make_batches(const Feed& feed, std::int64_t first, std::int64_t rows, bool training);
  std::vector<Tensor> clean_copies(const Feed& feed, const std::vector<Tensor>& batches);

  Context& ctx_;
  std::vector<Member> members_;
  std::unique_ptr<Method> method_;
  CohortOptions options_;
  Sharing sharing_;
  std::vector<Meeting> meetings_;
  std::unique_ptr<Inputs> inputs_;
  std::unique_ptr<PerturbationStage> perturbation_;
  std::unique_ptr<nn::Sgd> sgd_;
  std::unique_ptr<SecondUpdate> second_update_;
  // (M) i32 each: 1 for the member whose turn it is; empty unless in turn. And with new batches 1 for those
  // who had one when 1, 2, ... did.
  std::vector<Tensor> turns_, had_turn_;
  kernels::Normalisation normalisation_;
  std::map<std::pair<const void*, std::int64_t>, Plan> plans_;  // by the address of the feed's cursor
  std::map<std::pair<std::uint64_t, std::vector<std::int32_t>>, std::unique_ptr<Evaluation>>
      evaluations_;  // by the images' id
  std::unique_ptr<StepRecords> records_;
};

}  // namespace cohort::distill
