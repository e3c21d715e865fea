#include "distill/methods/adm_terms.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <deque>

#include "core/ops/attention_reweight.h"
#include "core/ops/channel_normalise.h"
#include "core/ops/cohort_loss.h"
#include "core/ops/epoch_weights.h"
#include "core/ops/feature_l2.h"
#include "core/ops/linear.h"
#include "core/ops/loss_select.h"
#include "core/ops/pixel_cosine.h"
#include "core/ops/pointwise.h"
#include "core/ops/pool.h"
#include "core/ops/temporal_target.h"
#include "core/ops/trimmed_l2.h"
#include "distill/adapters.h"
#include "distill/integer_list.h"
#include "distill/logit_loss.h"

namespace cohort::distill {
namespace {

enum class ConsensusForm { kCe, kKd };
enum class DivergenceForm { kCe, kKd };
enum class AnswerFrom { kTable, kFrozen };
enum class FeatureForm { kMse, kRelu, kNorm, kDrop };
enum class FeatureStages { kAll, kLast };

constexpr double kOfTheSetting = -1;

struct Strengths {
  double co, di, feature;
};

// "0" or "0,1": members.
std::vector<int> parse_members(const std::string& text) {
  const auto members = parse_integers(text, 0);
  if (members) return *members;
  throw Error(ErrorKind::kUsage, fmt::format("adm.teachers: '{}' is no list of networks", text),
              "indices of networks, from 0, separated by commas: 0 or 0,1");
}

class AdmTerms final : public Method {
 public:
  AdmTerms(std::unique_ptr<Method> base, const MethodOptions& o)
      : base_(std::move(base)),
        wanted_{o.number("adm.alpha"), o.number("adm.beta"), o.number("adm.gamma")},
        temperature_(o.number("adm.T")),
        delta_first_(o.number("adm.delta_first")),
        delta_last_(o.number("adm.delta_last")),
        co_form_(static_cast<ConsensusForm>(o.choice("adm.co_form"))),
        di_form_(static_cast<DivergenceForm>(o.choice("adm.di_form"))),
        answer_from_(static_cast<AnswerFrom>(o.choice("adm.q"))),
        feature_form_(static_cast<FeatureForm>(o.choice("adm.feat_form"))),
        feature_stages_(static_cast<FeatureStages>(o.choice("adm.feat"))),
        drop_per_sample_(o.choice("adm.drop") == 1),
        preactivation_(o.flag("adm.preact")),
        teachers_(parse_members(o.text("adm.teachers"))) {
    if (base_->perturbation()) {
      throw Error(ErrorKind::kUsage, "adm compares maps position by position: not with perturbed networks",
                  "switch the perturbation off (cd.perturb=false), or leave adm out");
    }
  }

  std::string formula(int members) const override {
    const Strengths strength = strengths();
    const char* const map = preactivation_ ? "relu(F)" : "F";
    std::string text = base_->formula(members) + "; ADM, teachers";
    for (const int teacher : teachers_) text += fmt::format(" {}", teacher);
    text += fmt::format(": net s + {:g} ", strength.co);
    text +=
        co_form_ == ConsensusForm::kCe
            ? fmt::format("CE(FC_s(GAP(a_co {})), y)", map)
            : fmt::format("T^2 KL(FC_t(GAP(a_co {0})) -> FC_s(GAP(a_co {0}))), T={1:g}", map, temperature_);
    if (strength.feature > 0) {
      text += fmt::format(" + {:g} {}", strength.feature,
                          feature_stages_ == FeatureStages::kAll ? "sum_i 2^-i " : "");
      text += feature_text();
    }
    if (strength.di > 0) text += fmt::format("; net t + {:g} {}", strength.di, divergence_text(map));
    return text + "; a_co ~ 1 + S, a_di ~ 1 - S, S = cosine of F_s, F_t, detached";
  }

  void check_members(int members) const override {
    base_->check_members(members);
    for (const int teacher : teachers_) {
      if (teacher >= members) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("adm.teachers names network {}, and there are {}", teacher, members),
                    "networks count from 0");
      }
    }
    if (teachers_.empty() || static_cast<int>(teachers_.size()) >= members) {
      throw Error(ErrorKind::kUsage, "adm needs a teacher and a student",
                  "two networks or more; adm.teachers lists those that teach, the others learn");
    }
  }

  bool frozen(int member) const override { return base_->frozen(member); }
  bool wants_preactivation() const override { return preactivation_ || base_->wants_preactivation(); }

  bool wants_former(int member) const override {
    return base_->wants_former(member) ||
           (temporal() && answer_from_ == AnswerFrom::kFrozen && is_teacher(member));
  }

  UpdateOrder update_order() const override { return base_->update_order(); }
  Sharing sharing(const models::Network& model) const override {
    if (base_->sharing(model).parts == 0) return {};
    throw Error(ErrorKind::kUsage, "adm compares the maps of networks, and these share their first parts",
                "leave adm out");
  }
  std::vector<Meeting> meetings() const override { return base_->meetings(); }
  void setup_meeting(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps) override {
    base_->setup_meeting(ctx, meeting, maps);
  }
  std::vector<Tensor> meet(Context& ctx, Meeting meeting, const std::vector<Tensor>& maps,
                           bool training) override {
    return base_->meet(ctx, meeting, maps, training);
  }
  double weight_decay(const ParameterSet& extra, double of_network) override {
    return base_->weight_decay(extra, of_network);
  }
  Tensor transform(Context& ctx, int member, const Tensor& map, bool training) override {
    return base_->transform(ctx, member, map, training);
  }
  std::map<std::string, std::vector<double>> folded(Context& ctx, int member,
                                                    const models::Network& network) override {
    return base_->folded(ctx, member, network);
  }

  bool wants_held_out() const override { return base_->wants_held_out(); }
  void end_of_epoch(Context& ctx, const HeldOut& held_out) override { base_->end_of_epoch(ctx, held_out); }
  std::vector<double> state() const override { return base_->state(); }
  void set_state(Context& ctx, const std::vector<double>& state) override { base_->set_state(ctx, state); }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    base_->setup(ctx, probe);
    std::vector<std::vector<Tensor>> maps;
    for (const models::Outputs& outputs : probe) maps.push_back(maps_of(outputs, preactivation_));
    for (const std::vector<Tensor>& stages : maps) {
      if (stages.empty()) {
        throw Error(ErrorKind::kUsage, "adm compares feature maps, and there are none",
                    "give features_K, weight_K and bias_K for every network");
      }
    }
    const Strengths strength = strengths();
    classes_ = probe.front().logits.shape[1];
    const auto num_students = static_cast<double>(maps.size() - teachers_.size());
    const auto num_teachers = static_cast<double>(teachers_.size());
    co_ = constant(ctx, {}, {strength.co / num_teachers});
    di_ = constant(ctx, {}, {strength.di / num_students});
    consensus_kl_ = constant(ctx, {2, 2}, {0, strength.co / num_teachers, 0, 0});
    no_ce_ = ctx.persistent_tensor({2}, ctx.parameter_dtype());
    off_on_ = constant(ctx, {2}, {0, 1});
    one_ = constant(ctx, {1}, {1});
    delta_of_last_ = constant(ctx, {1}, {delta_last_});
    pairs_.clear();
    std::size_t most_stages = 0;
    for (std::size_t s = 0; s < maps.size(); ++s) {
      if (is_teacher(static_cast<int>(s))) continue;
      for (const int t : teachers_) {
        const auto stages = stage_pairs(maps[s], maps[static_cast<std::size_t>(t)]);
        pairs_.push_back({.student = static_cast<int>(s), .teacher = t, .stages = stages});
        most_stages = std::max(most_stages, stages.size());
        for (const StagePair stage : stages) adapters_.add(maps, static_cast<int>(s), t, stage);
      }
    }
    for (std::size_t i = 0; i < most_stages; ++i) {
      const double share = feature_stages_ == FeatureStages::kLast ? 1.0 : std::pow(0.5, i + 1);
      feature_.push_back(constant(ctx, {}, {strength.feature * share / num_teachers}));
    }
    adapters_.materialize(ctx);
  }

  void prepare(Context& ctx, const RunShape& run) override {
    base_->prepare(ctx, run);
    if (!temporal()) return;
    check(deltas_.empty(), "adm: prepared twice");
    std::vector<double> deltas;
    for (int e = 0; e < run.epochs; ++e)
      deltas.push_back(delta_first_ + (delta_last_ - delta_first_) * e / std::max(1, run.epochs - 1));
    if (answer_from_ == AnswerFrom::kFrozen) deltas.front() = 0;  // there was no teacher before
    deltas_ = constant(ctx, {run.epochs}, deltas);
    if (answer_from_ == AnswerFrom::kFrozen) return;
    for (std::size_t t = 0; t < teachers_.size(); ++t) {
      predictions_.emplace_back().add_buffer("adm.predictions", {run.samples, classes_}, 0);
      predictions_.back().materialize(ctx);
    }
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    std::vector<ParameterSet*> sets = base_->extra_parameters(member);
    for (ParameterSet* own : adapters_.of(member)) sets.push_back(own);
    for (std::size_t t = 0; t < predictions_.size(); ++t)
      if (teachers_[t] == member) sets.push_back(&predictions_[t]);
    return sets;
  }

  std::optional<AdamUpdates> adam_updates() const override { return base_->adam_updates(); }
  std::vector<ParameterSet*> adam_parameters(int member) override { return base_->adam_parameters(member); }
  void second_losses(Context& ctx, StepView& view, int member) override {
    base_->second_losses(ctx, view, member);
  }

  // The weight maps are made before the networks part again: both sides of a pair read them.
  void losses(Context& ctx, StepView& view) override {
    base_->losses(ctx, view);
    const bool recording = ctx.recording();
    ctx.set_recording(false);
    for (Pair& pair : pairs_) weigh(ctx, view, pair);
    ctx.set_recording(recording);
  }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    base_->feature_losses(ctx, view, member);
    const Strengths strength = strengths();
    Tensor target;  // of a teacher's L_di as KL: once a step, for it stores what the teacher thinks now
    if (temporal() && is_teacher(member)) target = temporal_target(ctx, view, member);
    for (const Pair& pair : pairs_) {
      if (pair.student == member) {
        if (strength.co > 0) consensus(ctx, view, pair);
        if (strength.feature > 0) features(ctx, view, pair);
      }
      if (pair.teacher == member && strength.di > 0) divergence(ctx, view, pair, target);
    }
  }

 private:
  struct Pair {
    int student, teacher;
    std::vector<StagePair> stages;
    // Of the step, at the sizes of the networks' own last maps.
    Tensor student_co = {}, teacher_co = {}, teacher_di = {};
  };

  bool is_teacher(int member) const {
    for (const int teacher : teachers_) {
      if (teacher == member) return true;
    }
    return false;
  }

  // A frozen teacher cannot learn where it is unsure, and its students have maps of their own.
  Strengths strengths() const {
    bool offline = false;
    for (const int teacher : teachers_) offline = offline || base_->frozen(teacher);
    const Strengths setting = offline ? Strengths{1, 0, 0} : Strengths{0.01, 0.01, 1};
    const auto chosen = [](double wanted, double of_setting) {
      return wanted == kOfTheSetting ? of_setting : wanted;
    };
    return {chosen(wanted_.co, setting.co), offline ? 0 : chosen(wanted_.di, setting.di),
            chosen(wanted_.feature, setting.feature)};
  }

  const char* feature_text() const {
    switch (feature_form_) {
      case FeatureForm::kMse:
        return "MSE(F_s, F_t)";
      case FeatureForm::kRelu:
        return "MSE(relu(F_s), relu(F_t))";
      case FeatureForm::kNorm:
        return "MSE(F_s/|F_s|, F_t/|F_t|), |F| per channel";
      case FeatureForm::kDrop:
        return drop_per_sample_ ? "MSE(F_s, F_t) without the largest third of each sample"
                                : "MSE(F_s, F_t) without the largest third";
    }
    internal_error("adm: no such feature form");
  }

  std::string divergence_text(const char* map) const {
    if (di_form_ == DivergenceForm::kCe) return fmt::format("CE(FC_t(GAP(a_di {})), y)", map);
    return fmt::format(
        "T^2 KL((1 - d) y + d q -> FC_t(GAP(a_di {}))), T={:g}, q = softmax(z_t) of {}, d = {:g} to {:g} by "
        "the epoch",
        map, temperature_,
        answer_from_ == AnswerFrom::kTable ? "the epoch before"
                                           : "the teacher at the end of the epoch before, evaluation mode",
        delta_first_, delta_last_);
  }

  bool temporal() const { return di_form_ == DivergenceForm::kKd && strengths().di > 0; }

  static Tensor as_vector(const Tensor& scalar) { return {scalar.data, {1}, scalar.dtype, nullptr}; }

  // From the end, the stem left out; the last maps always, the others where their sizes agree.
  std::vector<StagePair> stage_pairs(const std::vector<Tensor>& student,
                                     const std::vector<Tensor>& teacher) const {
    std::vector<StagePair> pairs = {{student.size() - 1, teacher.size() - 1}};
    if (feature_stages_ == FeatureStages::kLast) return pairs;
    std::size_t t = teacher.size() - 1;
    for (std::size_t s = student.size() - 1; s-- > 1;) {
      for (std::size_t candidate = t; candidate-- > 1;) {
        if (same_size(student[s], teacher[candidate])) {
          pairs.push_back({s, candidate});
          t = candidate;
          break;
        }
      }
    }
    return pairs;
  }
  static bool same_size(const Tensor& a, const Tensor& b) {
    return a.shape[1] == b.shape[1] && a.shape[2] == b.shape[2];
  }

  const Tensor& last_map(const StepView& view, int member) const {
    return maps_of(view.outputs[static_cast<std::size_t>(member)], preactivation_).back();
  }

  void weigh(Context& ctx, const StepView& view, Pair& pair) {
    const Tensor &student = last_map(view, pair.student), &teacher = last_map(view, pair.teacher);
    const Adapters::Maps maps = adapters_.match(ctx, student.detached(), teacher, pair.student, pair.teacher,
                                                pair.stages.front().student);
    const Tensor similarity = ops::pixel_cosine(ctx, maps.student.detached(), maps.teacher);
    const ops::AttentionMaps at_teacher = weights_for(ctx, similarity, teacher);
    pair.teacher_co = at_teacher.co;
    pair.teacher_di = at_teacher.di;
    pair.student_co = same_size(student, teacher) ? at_teacher.co : weights_for(ctx, similarity, student).co;
  }

  // Bins of an adaptive average that are smaller than a pixel repeat it: the nearest one.
  static ops::AttentionMaps weights_for(Context& ctx, const Tensor& similarity, const Tensor& map) {
    Tensor own = similarity;
    if (!same_size(similarity, map)) {
      own.shape = {own.shape[0], own.shape[1], own.shape[2], 1};
      own = ops::adaptive_avg_pool(ctx, own, static_cast<int>(map.shape[1]), static_cast<int>(map.shape[2]));
      own.shape = {map.shape[0], map.shape[1], map.shape[2]};
    }
    return ops::attention_weights(ctx, own);
  }

  // FC(GAP(weights * F)) of a member, differentiable in F and FC.
  Tensor pooled_logits(Context& ctx, const StepView& view, int member, const Tensor& weights,
                       bool detached = false) const {
    const Tensor& map = last_map(view, member);
    models::Classifier fc = view.outputs[static_cast<std::size_t>(member)].classifier;
    if (detached) fc = {fc.weight.detached(), fc.bias.detached()};
    const Tensor pooled =
        ops::attention_pool(ctx, detached ? map.detached() : map, weights, /*relu=*/preactivation_);
    return ops::linear(ctx, pooled, fc.weight, fc.bias);
  }

  void consensus(Context& ctx, StepView& view, const Pair& pair) {
    const Tensor z = pooled_logits(ctx, view, pair.student, pair.student_co);
    if (co_form_ == ConsensusForm::kCe) {
      const auto values = ops::cohort_loss(ctx, {.logits = {&z, 1},
                                                 .labels = view.labels,
                                                 .ce_weight = as_vector(co_),
                                                 .valid_rows = view.valid_rows});
      book(ctx, view, pair.student, co_, ops::entry(values.ce, 0), ops::entry(values.loss, 0));
      return;
    }
    const Tensor both[] = {
        z, pooled_logits(ctx, view, pair.teacher, pair.teacher_co, /*detached=*/true).detached()};
    const auto values = ops::cohort_loss(ctx, {.logits = both,
                                               .labels = view.labels,
                                               .ce_weight = no_ce_,
                                               .kl_weight = consensus_kl_,
                                               .valid_rows = view.valid_rows,
                                               .temperature = temperature_});
    book(ctx, view, pair.student, co_, ops::entry(values.kl_pair, 0, 1), ops::entry(values.loss, 0));
  }

  // Of the teacher's labels and its answers an epoch ago; in the table its answers of this step take their
  // place.
  Tensor temporal_target(Context& ctx, const StepView& view, int teacher) const {
    ops::TemporalTargetInputs in{.logits = view.outputs[static_cast<std::size_t>(teacher)].logits,
                                 .labels = view.labels,
                                 .indices = view.indices,
                                 .delta = delta_of_last_,
                                 .valid_rows = view.valid_rows};
    if (!view.epoch.empty() && !deltas_.empty())
      in.delta = ops::epoch_weights(ctx, one_, deltas_, view.epoch);
    for (std::size_t t = 0; t < predictions_.size(); ++t)
      if (teachers_[t] == teacher) in.table = predictions_[t].buffers().front().value;
    if (answer_from_ == AnswerFrom::kFrozen && !view.former.empty())
      in.former = view.former[static_cast<std::size_t>(teacher)];
    return ops::temporal_target(ctx, in);
  }

  // A teacher that is not updated has nothing to learn: its weight is looked up by its entry of the mask.
  Tensor divergence_weight(Context& ctx, const StepView& view, int teacher) const {
    if (view.report.step_mask.empty()) return di_;
    return ops::epoch_weights(ctx, di_, off_on_, ops::entry(view.report.step_mask, teacher));
  }

  void divergence(Context& ctx, StepView& view, const Pair& pair, const Tensor& target) {
    const Tensor z = pooled_logits(ctx, view, pair.teacher, pair.teacher_di);
    const Tensor weight = divergence_weight(ctx, view, pair.teacher);
    ops::CohortLossInputs inputs{.logits = {&z, 1}, .labels = view.labels, .valid_rows = view.valid_rows};
    if (di_form_ == DivergenceForm::kCe) {
      inputs.ce_weight = as_vector(weight);
    } else {
      inputs.ce_weight = as_vector(ops::entry(no_ce_, 0));
      inputs.target_weight = as_vector(weight);
      inputs.target_rule = kernels::TargetRule::kGiven;
      inputs.given_target = target;
      inputs.temperature = temperature_;
    }
    const auto values = ops::cohort_loss(ctx, inputs);
    const Tensor& value = di_form_ == DivergenceForm::kCe ? values.ce : values.target_kl;
    book(ctx, view, pair.teacher, weight, ops::entry(value, 0), ops::entry(values.loss, 0));
  }

  void features(Context& ctx, StepView& view, const Pair& pair) {
    const auto& student_maps = maps_of(view.outputs[static_cast<std::size_t>(pair.student)], preactivation_);
    const auto& teacher_maps = maps_of(view.outputs[static_cast<std::size_t>(pair.teacher)], preactivation_);
    for (std::size_t i = 0; i < pair.stages.size(); ++i) {
      const StagePair stage = pair.stages[i];
      Adapters::Maps maps = adapters_.match(ctx, student_maps[stage.student], teacher_maps[stage.teacher],
                                            pair.student, pair.teacher, stage.student);
      if (feature_form_ == FeatureForm::kRelu) {
        maps.student = ops::relu(ctx, maps.student);
        maps.teacher = ops::relu(ctx, maps.teacher).detached();
      }
      if (feature_form_ == FeatureForm::kNorm) {
        maps.student = ops::channel_normalise(ctx, maps.student);
        maps.teacher = ops::channel_normalise(ctx, maps.teacher.detached());
      }
      const Tensor loss = ops::entry(view.report.loss, pair.student);
      const Tensor value =
          feature_form_ == FeatureForm::kDrop
              ? ops::trimmed_l2(ctx, maps.student, maps.teacher, feature_[i],
                                {.per_row = drop_per_sample_, .valid_rows = view.valid_rows, .loss = loss})
              : ops::feature_l2(ctx, maps.student, maps.teacher, feature_[i],
                                {.valid_rows = view.valid_rows, .loss = loss});
      view.report.feature_terms.push_back({pair.student, feature_[i], value});
    }
  }

  // Adds a term's weighted value to the member's loss.
  static void book(Context& ctx, StepView& view, int member, const Tensor& weight, const Tensor& value,
                   const Tensor& weighted) {
    add_to_loss(ctx, view, member, weighted);
    view.report.feature_terms.push_back({member, weight, value});
  }

  std::unique_ptr<Method> base_;
  Strengths wanted_;
  double temperature_, delta_first_, delta_last_;
  ConsensusForm co_form_;
  DivergenceForm di_form_;
  AnswerFrom answer_from_;
  FeatureForm feature_form_;
  FeatureStages feature_stages_;
  bool drop_per_sample_, preactivation_;
  std::vector<int> teachers_;
  std::vector<Pair> pairs_;
  Adapters adapters_;
  Tensor co_, di_, consensus_kl_, no_ce_, off_on_;
  // Of L_di as KL: d by the epoch, that of the last epoch for steps without epochs, and per teacher a table
  // (samples, classes) of its answers, which is checkpointed; none where a former network answers.
  std::int64_t classes_ = 0;
  Tensor one_, deltas_, delta_of_last_;
  std::deque<ParameterSet> predictions_;
  std::vector<Tensor> feature_;  // weights of the stage pairs, from the end
};

}  // namespace

const std::vector<OptionSpec>& adm_options() {
  static const std::vector<OptionSpec> options = {
      {.key = "adm.alpha",
       .default_value = "-1",
       .help = "weight of the consensus term; -1: 0.01, or 1 with a frozen teacher",
       .min = -1},
      {.key = "adm.beta",
       .default_value = "-1",
       .help = "weight of the divergence term; -1: 0.01 (a frozen teacher has none)",
       .min = -1},
      {.key = "adm.gamma",
       .default_value = "-1",
       .help = "weight of the feature term; -1: 1, or 0 with a frozen teacher",
       .min = -1},
      {.key = "adm.T",
       .default_value = "1",
       .help = "temperature of both terms where they are KL",
       .min = 1e-3},
      {.key = "adm.co_form",
       .type = OptionType::kChoice,
       .default_value = "ce",
       .help = "consensus term: cross-entropy, or KL from the teacher's view of the same places",
       .choices = {"ce", "kd"}},
      {.key = "adm.di_form",
       .type = OptionType::kChoice,
       .default_value = "ce",
       .help = "divergence term: cross-entropy, or KL from labels mixed with the answer an epoch ago",
       .choices = {"ce", "kd"}},
      {.key = "adm.q",
       .type = OptionType::kChoice,
       .default_value = "table",
       .help =
           "di_form=kd: the answer an epoch ago is what was said of the image then, or what the teacher of "
           "then says of it now",
       .choices = {"table", "frozen"}},
      {.key = "adm.delta_first",
       .default_value = "0.2",
       .help = "di_form=kd: share of the answer an epoch ago in the first epoch's schedule",
       .min = 0,
       .max = 1},
      {.key = "adm.delta_last",
       .default_value = "0.6",
       .help = "di_form=kd: the same in the last epoch, linear between",
       .min = 0,
       .max = 1},
      {.key = "adm.feat",
       .type = OptionType::kChoice,
       .default_value = "stages",
       .help = "feature term: all stages, halving from the last one on, or the last one alone",
       .choices = {"stages", "last"}},
      {.key = "adm.feat_form",
       .type = OptionType::kChoice,
       .default_value = "mse",
       .help =
           "feature term: MSE of the maps, their ReLU, channels of length 1, or without the largest third",
       .choices = {"mse", "relu", "norm", "drop"}},
      {.key = "adm.drop",
       .type = OptionType::kChoice,
       .default_value = "batch",
       .help = "feat_form=drop: the largest third of the whole batch's squares, or of each sample's",
       .choices = {"batch", "sample"}},
      {.key = "adm.preact",
       .type = OptionType::kBool,
       .default_value = "true",
       .help = "maps before the last activation, ReLU inside the terms; false: maps after it"},
      {.key = "adm.teachers",
       .type = OptionType::kText,
       .default_value = "0",
       .help = "the networks that teach, from 0: \"0\" or \"0,1\"; the others learn"}};
  return options;
}

std::unique_ptr<Method> with_adm_terms(std::unique_ptr<Method> base, const MethodOptions& options) {
  if (dynamic_cast<const AdmTerms*>(base.get()) != nullptr)
    throw Error(ErrorKind::kUsage, "the method adm has the terms of the addition adm", "--add none");
  return std::make_unique<AdmTerms>(std::move(base), options);
}

}  // namespace cohort::distill
