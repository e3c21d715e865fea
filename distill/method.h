// A method: who teaches whom, with which losses. Most are a teaching matrix W, a target rule and a step mask
// (design page, section 2): a method fills those in device memory and calls the one fused loss kernel.
//
// Rules for every method: sum over classes, mean over the batch; targets are detached unless an option says
// otherwise; whatever is decided per batch is decided on the device; all networks are updated from the
// outputs of the same step (simultaneous update) unless UpdateOrder says otherwise.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/context.h"
#include "core/parameter.h"
#include "distill/options.h"
#include "kernels/perturb_math.h"
#include "models/network.h"

namespace cohort::distill {

// A feature term of a member's loss: weight * value, both device scalars.
struct FeatureTerm {
  int member;
  Tensor weight, value;
};

// What a step measured, in device memory of that step. "A" is the context's parameter dtype.
struct Report {
  Tensor loss;          // (M) A: everything, feature terms included
  Tensor ce;            // (M) A
  Tensor kl;            // (M) A: the weighted KL part
  Tensor correct_top1;  // (M) i32
  Tensor correct_top5;  // (M) i32
  Tensor kl_weight;     // (M, M) A: the teaching matrix in force
  Tensor teacher;       // () i32: the member that taught this batch; empty where the method has none
  Tensor target;        // (B, C) A: the shared soft target; empty unless the method has one
  Tensor gate;          // (B, M) A: each member's share of the target; empty unless the method has a gate
  Tensor grad_gate;     // (B, M) A: the loss's gradient with regard to it
  Tensor step_mask;     // (M) i32: 0 where a member is paused, not updated by this step; empty: all are
  Tensor mode;          // (M) i32: of a teacher 1 (expert) or 0 (learning), of others -1; may be empty
  std::vector<FeatureTerm> feature_terms;
};

// One step as a method sees it.
struct StepView {
  std::vector<models::Outputs> outputs;  // of the M members
  Tensor labels;                         // (B) i32
  Tensor indices;                        // (B) i32: their numbers in the training set; may be empty
  // What the shared parts of the networks hand on (Sharing), with a gradient of its own; empty without.
  Tensor shared;
  // Per member the logits (B, classes) that its network of an epoch ago, in evaluation mode, gives to its
  // images of this step: of those that the method asks (wants_former), else empty. In the first epoch there
  // was no such network, and what stands there means nothing.
  std::vector<Tensor> former;
  Tensor epoch;          // (1) i32, from 0; empty where there are no epochs
  Tensor gate_scores;    // (B, M) A: of a gate, where they are given instead of computed (`cohort loss`)
  Tensor fused_logits;   // (B, classes) A: of a fusion of the networks, given in the same way
  Tensor valid_rows;     // () i32: the leading images count, as in Context::valid_images(); empty: all
  Tensor mixed_labels;   // (B, 4) i32, of the member whose images were mixed; may be empty
  Tensor mixed_weights;  // (B, 4) A
  Tensor mixed_member;   // () i32, -1: nobody
  Tensor masked_member;  // () i32: the member whose maps are not comparable; -1: nobody; may be empty
  Report report;

  int members() const { return static_cast<int>(outputs.size()); }
};

// How one random member's input is perturbed each step (kernels/perturb.h).
struct PerturbationChoice {
  enum class Preset { kPaper, kOfficial, kAll, kList };
  Preset preset = Preset::kPaper;
  std::vector<kernels::PerturbOp> operations;  // kList
  int period = 0;                              // 0: the preset's
  bool per_sample = false;
  std::optional<kernels::PerturbDomain> domain;  // none: the preset's
};

// What a run is beside its networks.
struct RunShape {
  std::int64_t samples = 0;  // of the training set: what StepView::indices count
  int epochs = 1;
};

// Parts of the networks (models::Network) that exist once and belong to the first member; the others go on
// from what these hand on, each with parts and a classifier of its own.
struct Sharing {
  int parts = 0;               // from the images on; 0: nothing is shared
  bool mean_gradient = false;  // at every split the mean of the gradients goes back, not the sum
  // A second split: the parts after those, up to this one, exist once for members 0 and 1, once for 2 and 3,
  // ..., and belong to the first of the two; 0: there is none.
  int pair_parts = 0;
};

// Where all networks hand their maps to the method, and go on with what it makes of them.
enum class Meeting { kAfterStem, kAfterLastStage };

// What the networks make of the held-out images, in evaluation mode.
struct HeldOut {
  std::span<const std::vector<float>> logits;  // per member (images, classes)
  std::span<const std::int32_t> labels;        // (images)
  int classes = 0;
};

// When networks are updated. In turn: member 0 first, then its outputs for the same batch again, then member
// 1, which learns from these, and so on (Zhang et al., CVPR 2018, algorithm 1). With new batches: in turn,
// and every turn takes the epoch's next batch, so that a step takes as many as there are members; whose turn
// it is not answers in training mode, and its running statistics stay (the same authors' code).
enum class UpdateOrder { kSimultaneous, kInTurn, kNewBatch };

// A second update of the step, by Adam (nn/adam.h) after the members' SGD: of parts of the method's own and
// of the members' networks.
struct AdamUpdates {
  double learning_rate = 0;
  double weight_decay = 0;
  std::vector<double> factors = {1};  // of the rate, one per epoch; the last holds from there on
  // The networks' gradient is that of second_losses(), which reaches all but the classifier, and that part
  // alone is stepped. False: the gradient that SGD steps with, all of the network.
  bool separate = true;
};

class Method {
 public:
  virtual ~Method() = default;

  // The loss in force with its numbers, printed at the start and stored with the run.
  virtual std::string formula(int members) const = 0;

  // Throws Error(kUsage) when the method cannot train this many networks.
  virtual void check_members(int members) const;

  // A frozen member only teaches: evaluation mode, no gradient, no update.
  virtual bool frozen(int member) const;
  virtual bool wants_preactivation() const { return false; }
  // Whether the member's network as it was at the end of the epoch before is to answer too
  // (StepView::former).
  virtual bool wants_former(int member) const;
  virtual UpdateOrder update_order() const { return UpdateOrder::kSimultaneous; }
  // All members are of `model` where parts are shared.
  virtual Sharing sharing(const models::Network& model) const;
  virtual std::vector<Meeting> meetings() const { return {}; }  // in that order
  virtual std::optional<PerturbationChoice> perturbation() const { return std::nullopt; }

  // Allocates device state. `probe` holds the outputs of all members for a batch of one (shapes only).
  virtual void setup(Context& ctx, const std::vector<models::Outputs>& probe) = 0;
  // After setup(), where parts are shared: the map that they hand on for a batch of one (shape only).
  virtual void setup_shared(Context& ctx, const Tensor& shared);
  // After setup(), for every meeting: the networks' maps there for a batch of one (shapes only).
  virtual void setup_meeting(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps);

  // At a meeting, on the main branch, in training and evaluation: what every network goes on with in place of
  // its map. Outputs::stages keeps the maps as they were before.
  virtual std::vector<Tensor> meet(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps,
                                   bool training);

  // After setup(), once, before the first step of a run: for what depends on its length or on the number of
  // samples. Without a run there is nothing to remember of one.
  virtual void prepare(Context& ctx, const RunShape& run);

  // On the branch of `member`, in training and evaluation: what its classifier gets in place of its last map.
  virtual Tensor transform(Context& ctx, int member, const Tensor& map, bool training);
  // Parameters of the member's network, by name, with the values that make it do without transform() what it
  // does with it: what weight files hold.
  virtual std::map<std::string, std::vector<double>> folded(Context& ctx, int member,
                                                            const models::Network& network);

  // Between join and fork, on the main branch: decides, computes the losses on logits and writes their
  // gradients. What it records here is run back before the members' own backward passes.
  virtual void losses(Context& ctx, StepView& view) = 0;

  // On the branch of `member`, before its backward pass: terms on its feature maps.
  virtual void feature_losses(Context& ctx, StepView& view, int member);

  // Whether it needs images that nobody trains on: the run's held-out ones.
  virtual bool wants_held_out() const { return false; }
  // After every epoch, with the device at rest, for methods that want them.
  virtual void end_of_epoch(Context& ctx, const HeldOut& held_out);
  // What a resumed run needs beside parameters; checkpointed exactly. set_state() takes what state() gave.
  virtual std::vector<double> state() const { return {}; }
  virtual void set_state(Context& ctx, const std::vector<double>& state);

  // Parts of the method itself that belong to member's optimiser (adapters, a regressor, a head), in an order
  // that does not change. Parameters and buffers are checkpointed.
  virtual std::vector<ParameterSet*> extra_parameters(int member);
  // The weight decay of one of those; `of_network`: that of its member's network.
  virtual double weight_decay(const ParameterSet& extra, double of_network);

  // Where the members' SGD is not all: none by default. Not with shared parts or meetings, not in turn.
  virtual std::optional<AdamUpdates> adam_updates() const { return std::nullopt; }
  // Parts of the method itself that Adam steps in place of member's optimiser, otherwise like
  // extra_parameters().
  virtual std::vector<ParameterSet*> adam_parameters(int member);
  // On the branch of `member`, after its backward pass: losses of a second one over the same outputs, whose
  // gradient for the network goes to Adam alone.
  virtual void second_losses(Context& ctx, StepView& view, int member);
};

// All parts of the method that belong to `member`: those of SGD, then those of Adam.
std::vector<ParameterSet*> own_parameters(Method& method, int member);

// Options that make a method the variant of one source, where sources disagree. What options cannot express
// stands in the help line.
struct Fidelity {
  std::string name;  // "paper", "okddip"
  std::string help;
  std::vector<std::pair<std::string, std::string>> settings;  // keys of the method's options, values as text
};

struct MethodInfo {
  std::string name;
  std::string summary;   // one line: who teaches whom
  std::string equation;  // the loss as text
  std::string paper;
  std::vector<OptionSpec> options;
  std::vector<Fidelity> fidelities = {};
  std::unique_ptr<Method> (*make)(const MethodOptions& options);
};

// The one place for method names (distill/registry.cpp).
const std::vector<MethodInfo>& registry();
// Throws Error(kUsage) with the nearest name.
const MethodInfo& find_method(std::string_view name);

// --- building blocks ---

// Device state of methods that are a teaching matrix and a target rule.
struct LossWeights {
  Tensor ce;      // (M) A
  Tensor kl;      // (M, M) A
  Tensor target;  // (M) A

  // Zero-filled, ce = 1.
  static LossWeights make(Context& ctx, int members);
  // Of a frozen teacher, member 0, and its students: weights of their cross-entropy and of KL(teacher ->
  // student).
  static LossWeights of_students(Context& ctx, int members, double ce, double kl);
};

// Device memory with these values (row-major), rounded to the parameter dtype; lives as long as the context.
Tensor constant(Context& ctx, const Shape& shape, const std::vector<double>& values);

// Allocates parts of a method's own and draws their initial values: `stream`, one for each kind of part,
// keeps their draws apart from those of the member's network.
void materialize_part(Context& ctx, ParameterSet& part, std::uint64_t stream, int member);

// Of methods whose member 0 is a frozen teacher. Throws Error(kUsage) without a student.
void check_teacher_and_student(const char* method, int members);

// Uploads host values (row-major) rounded to the tensor's dtype.
void upload_values(Context& ctx, const Tensor& to, const std::vector<double>& values);
// Downloads any dtype as doubles.
std::vector<double> download_values(Context& ctx, const Tensor& from);

}  // namespace cohort::distill
