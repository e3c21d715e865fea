#include <fmt/core.h>

#include "core/ops/epoch_weights.h"
#include "core/ops/peer_loss.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"
#include "distill/methods/shared_parts.h"

namespace cohort::distill {
namespace {

enum class Form { kBeta, kOkddip };

// Song & Chai, "Collaborative learning for deep neural networks", NeurIPS 2018: H heads on shared parts. Each
// learns from the mean of the others' logits, and the gradient that the heads send into the shared parts is
// divided by H.
//
//   L_h = beta CE_h + (1 - beta) T^2 S_h,  S_h = mean_b sum_c -q_h ln softmax_T(z_h),
//   q_h = softmax_T(mean_{j != h} z_j), a constant
//
// Heads may split twice (hierarchical): pairs have further parts in common, and every split divides what
// comes back by its own fan-out.
//
// The form of OKDDip's code (CL-ILR): L_h = CE_h + r(e) T^2 KL(q_h || softmax_T(z_h)).
class Clnn final : public Method {
 public:
  explicit Clnn(const MethodOptions& o)
      : form_(static_cast<Form>(o.choice("clnn.form"))),
        temperature_(o.number("clnn.T")),
        beta_(o.number("clnn.beta")),
        t_squared_(o.flag("clnn.t2")),
        ramp_(static_cast<int>(o.integer("clnn.ramp"))),
        shared_(static_cast<int>(o.integer("clnn.shared"))),
        pairs_(static_cast<int>(o.integer("clnn.pairs"))) {}

  std::string formula(int members) const override {
    const std::string scale = t_squared_ ? " T^2" : "";
    std::string text = fmt::format("heads 0..{}: ", members - 1);
    if (form_ == Form::kBeta) {
      text +=
          fmt::format("{:g} CE(z_i, y) + {:g}{} CE(softmax(z_i/T), softmax(m_i/T))", beta_, 1 - beta_, scale);
    } else {
      const std::string ramp =
          ramp_ > 0 ? fmt::format(" exp(-5 (1 - min(epoch, {0})/{0})^2)", ramp_) : std::string(" 1");
      text += fmt::format("CE(z_i, y) +{}{} KL(softmax(m_i/T) || softmax(z_i/T))", ramp, scale);
    }
    return text + fmt::format(
                      ", m_i = mean of the other heads' logits, T={:g}, batchmean, target detached; shared "
                      "parts take the mean gradient at {}, one update",
                      temperature_, pairs_ > 0 ? "both splits" : "the split");
  }

  void check_members(int members) const override {
    Method::check_members(members);
    check_branches("clnn", members);
    if (pairs_ == 0 || (members >= 4 && members % 2 == 0)) return;
    throw Error(ErrorKind::kUsage, fmt::format("clnn.pairs: {} heads are not several pairs", members),
                "four heads: --net resnet32 --net resnet32 --net resnet32 --net resnet32");
  }

  Sharing sharing(const models::Network& model) const override {
    if (pairs_ == 0) return {.parts = shared_parts(model, shared_, "clnn"), .mean_gradient = true};
    const int common = shared_ == kAllButTheLast ? pairs_ - 1 : shared_;
    if (common < 1 || common >= pairs_ || pairs_ >= model.num_parts()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("clnn.shared={}, clnn.pairs={}: a {} has {} parts, the stem included", shared_,
                              pairs_, model.model(), model.num_parts()),
                  fmt::format("all heads share 1 or more, pairs more than all do, at most {}",
                              model.num_parts() - 1));
    }
    return {.parts = common, .mean_gradient = true, .pair_parts = pairs_};
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    const bool beta = form_ == Form::kBeta;
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    upload_values(ctx, weights_.ce, std::vector<double>(m, beta ? beta_ : 1));
    soft_ = constant(ctx, {static_cast<std::int64_t>(m)}, std::vector<double>(m, beta ? 1 - beta_ : 1));
    const std::vector<double> table = ops::ramp_up(beta ? 0 : ramp_);
    table_ = constant(ctx, {static_cast<std::int64_t>(table.size())}, table);
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {});
    const std::vector<Tensor> logits = logits_of(view);
    const bool beta = form_ == Form::kBeta;
    ops::peer_loss(ctx, {.logits = logits,
                         .weight = ops::epoch_weights(ctx, soft_, table_, view.epoch),
                         .form = beta ? kernels::PeerForm::kCrossEntropy : kernels::PeerForm::kKl,
                         .temperature = temperature_,
                         .t_squared = t_squared_,
                         .valid_rows = view.valid_rows,
                         .loss = view.report.loss,
                         .kl = view.report.kl});
  }

 private:
  Form form_;
  double temperature_, beta_;
  bool t_squared_;
  int ramp_, shared_, pairs_;
  LossWeights weights_;
  Tensor soft_, table_;  // (M): weights of the soft terms; their factor by the epoch
};

}  // namespace

MethodInfo clnn_info() {
  return {
      .name = "clnn",
      .summary = "heads on shared parts: each learns from the mean of the others' logits",
      .equation = "L_k = beta CE_k + (1-beta) T^2 CE(softmax_T(z_k), softmax_T(mean_{j != k} z_j))",
      .paper = "Song & Chai, Collaborative learning for deep neural networks, NeurIPS 2018",
      .options =
          {{.key = "clnn.form",
            .type = OptionType::kChoice,
            .default_value = "beta",
            .help = "the paper's loss, or OKDDip's: CE + ramp KL without beta",
            .choices = {"beta", "okddip"}},
           {.key = "clnn.beta",
            .default_value = "0.5",
            .help = "weight of the cross-entropy; its rest is that of the soft term",
            .min = 0,
            .max = 1},
           {.key = "clnn.T", .default_value = "2", .help = "temperature; OKDDip's form has 3", .min = 1e-3},
           {.key = "clnn.t2",
            .type = OptionType::kBool,
            .default_value = "true",
            .help = "the factor T^2 on the soft term"},
           {.key = "clnn.ramp",
            .type = OptionType::kInteger,
            .default_value = "80",
            .help = "OKDDip's form: epochs over which the KL term grows to its weight; 0: none",
            .min = 0,
            .max = 100000},
           shared_parts_option("clnn"),
           {.key = "clnn.pairs",
            .type = OptionType::kInteger,
            .default_value = "0",
            .help = "a second split: parts that heads 0 and 1, 2 and 3, ... have in common; 0: none",
            .min = 0,
            .max = 64}},
      .fidelities = {{"paper",
                      "beta = 0.5, T = 2; whether the soft term has T^2 is not said: it has here",
                      {{"clnn.form", "beta"}, {"clnn.beta", "0.5"}, {"clnn.T", "2"}, {"clnn.t2", "true"}}},
                     {"okddip",
                      "OKDDip's CL-ILR: CE + ramp T^2 KL, T = 3; not here: 1e-7 on every target",
                      {{"clnn.form", "okddip"}, {"clnn.T", "3"}, {"clnn.ramp", "80"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Clnn>(o); }};
}

}  // namespace cohort::distill
