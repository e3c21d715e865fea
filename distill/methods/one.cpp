#include <fmt/core.h>

#include <optional>

#include "core/ops/epoch_weights.h"
#include "core/ops/gated_ensemble.h"
#include "core/ops/loss_select.h"
#include "core/ops/pool.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "distill/methods/shared_parts.h"
#include "nn/layers.h"

namespace cohort::distill {
namespace {

// How much each branch counts in the ensemble, image by image: from the map that the branches start from.
class Gate {
 public:
  Gate(std::int64_t channels, std::int64_t members)
      : linear_(parameters_, "gate.fc", channels, members), bn_(parameters_, "gate.bn", members) {}

  void materialize(Context& ctx) { materialize_part(ctx, parameters_, 0x90'7e5c'0000'0001ULL, 0); }
  Tensor scores(Context& ctx, const Tensor& map) const {
    const Tensor pooled = ops::global_avg_pool(ctx, map);
    return bn_.forward(ctx, linear_.forward(ctx, pooled), {.training = true, .relu = true});
  }
  ParameterSet& parameters() { return parameters_; }

 private:
  ParameterSet parameters_;
  nn::Linear linear_;
  nn::BatchNorm2d bn_;
};

// Lan et al., "Knowledge distillation by on-the-fly native ensemble", NeurIPS 2018. The members are branches
// of one network: their first parts exist once.
//
//   g = softmax(relu(BN(Linear(GAP(shared)))));  z_e = sum_i g_i z_i
//   L = sum_i CE_i + CE(z_e) + lambda r(e) T^2 sum_i KL_T(z_e -> z_i)
//
// CE(z_e) trains the gate and, through it, all branches; as a target z_e is a constant. The gate and CE(z_e)
// are booked under the first member.
class One final : public Method {
 public:
  explicit One(const MethodOptions& o)
      : temperature_(o.number("one.T")),
        lambda_(o.number("one.lambda")),
        ramp_(static_cast<int>(o.integer("one.ramp"))),
        shared_(static_cast<int>(o.integer("one.shared"))) {}

  std::string formula(int members) const override {
    const std::string ramp =
        ramp_ > 0 ? fmt::format(" exp(-5 (1 - min(epoch, {0})/{0})^2)", ramp_) : std::string();
    return fmt::format(
        "branches 0..{}: CE(z_i, y) + {:g}{} T^2 KL(softmax(z_e/T) || softmax(z_i/T)); all: CE(z_e, y), z_e "
        "= "
        "sum_k g_k z_k, g = softmax(relu(BN(Linear(GAP(shared map))))), T={:g}, batchmean, target detached, "
        "one update of shared parts, branches and gate",
        members - 1, lambda_, ramp, temperature_);
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_branches("one", members);
  }

  Sharing sharing(const models::Network& model) const override {
    return {.parts = shared_parts(model, shared_, "one")};
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    upload_values(ctx, weights_.target, std::vector<double>(m, lambda_));
    const std::vector<double> table = ops::ramp_up(ramp_);
    table_ = constant(ctx, {static_cast<std::int64_t>(table.size())}, table);
    one_ = constant(ctx, {}, {1});
    members_ = static_cast<std::int64_t>(m);
  }

  void setup_shared(Context& ctx, const Tensor& shared) override {
    gate_.emplace(shared.shape[3], members_);
    gate_->materialize(ctx);
  }

  std::vector<ParameterSet*> extra_parameters(int member) override {
    if (member != 0 || !gate_) return {};
    return {&gate_->parameters()};
  }

  void losses(Context& ctx, StepView& view) override {
    if (view.gate_scores.empty() && !gate_) {
      throw Error(ErrorKind::kUsage, "one needs the gate or the map that it looks at",
                  "give gate (rows, networks), or features_K for every network");
    }
    const std::vector<Tensor> logits = logits_of(view);
    const ops::GatedEnsembleValues ensemble = ops::gated_ensemble(
        ctx, {.logits = logits,
              .scores = view.gate_scores.empty() ? gate_->scores(ctx, view.shared) : view.gate_scores,
              .labels = view.labels,
              .temperature = temperature_,
              .valid_rows = view.valid_rows});
    LossWeights weights = weights_;
    weights.target = ops::epoch_weights(ctx, weights_.target, table_, view.epoch);
    logit_losses(ctx, view, weights,
                 {.temperature = temperature_,
                  .target_rule = kernels::TargetRule::kGiven,
                  .given_target = ensemble.target});
    add_to_loss(ctx, view, 0, ensemble.value);
    view.report.feature_terms.push_back({0, one_, ensemble.value});
    view.report.gate = ensemble.gate;
    view.report.grad_gate = ensemble.grad_gate;
  }

 private:
  double temperature_, lambda_;
  int ramp_, shared_;
  std::int64_t members_ = 0;
  LossWeights weights_;
  Tensor table_, one_;
  std::optional<Gate> gate_;
};

}  // namespace

MethodInfo one_info() {
  return {
      .name = "one",
      .summary = "branches of one network learn from their gated ensemble",
      .equation = "L = sum_k CE_k + CE(z_e) + lambda r(e) T^2 sum_k KL_T(z_e -> z_k), z_e = sum_k g_k z_k",
      .paper = "Lan et al., Knowledge distillation by on-the-fly native ensemble, NeurIPS 2018",
      .options = {{.key = "one.T", .default_value = "3", .help = "temperature", .min = 1e-3},
                  {.key = "one.lambda", .default_value = "1", .help = "weight of the KL term", .min = 0},
                  {.key = "one.ramp",
                   .type = OptionType::kInteger,
                   .default_value = "80",
                   .help = "epochs over which the KL term grows to its weight (code); 0: none (paper)",
                   .min = 0,
                   .max = 100000},
                  shared_parts_option("one")},
      .fidelities = {{"paper", "T = 3, no ramp", {{"one.T", "3"}, {"one.lambda", "1"}, {"one.ramp", "0"}}},
                     {"code",
                      "the authors' and OKDDip's code: T = 3, ramp over 80 epochs; not here: 1e-7 on every "
                      "target, T instead of T^2",
                      {{"one.T", "3"}, {"one.lambda", "1"}, {"one.ramp", "80"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<One>(o); }};
}

}  // namespace cohort::distill
