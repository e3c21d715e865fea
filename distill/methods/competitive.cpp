#include <fmt/core.h>

#include <algorithm>

#include "core/ops/feature_l2.h"
#include "distill/adapters.h"
#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

enum class FeatureLoss { kMse, kSumOverBatch, kSum, kOff };
enum class FeatureLayers { kLast, kAllStages };

kernels::FeatureReduction reduction_of(FeatureLoss loss) {
  switch (loss) {
    case FeatureLoss::kSumOverBatch:
      return kernels::FeatureReduction::kSumOverBatch;
    case FeatureLoss::kSum:
      return kernels::FeatureReduction::kSum;
    default:
      return kernels::FeatureReduction::kMean;
  }
}

// paper, official, all, or names of kernels/perturb_math.h separated by commas.
PerturbationChoice parse_pool(const std::string& text) {
  using Preset = PerturbationChoice::Preset;
  if (text == "paper") return {.preset = Preset::kPaper, .operations = {}, .domain = {}};
  if (text == "official") return {.preset = Preset::kOfficial, .operations = {}, .domain = {}};
  if (text == "all") return {.preset = Preset::kAll, .operations = {}, .domain = {}};
  PerturbationChoice choice{.preset = Preset::kList, .operations = {}, .domain = {}};
  std::string names;
  for (const kernels::PerturbInfo& info : kernels::kPerturbInfos)
    names += std::string(names.empty() ? "" : ", ") + info.name;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    const std::string name = text.substr(at, comma - at);
    const auto* info = std::find_if(std::begin(kernels::kPerturbInfos), std::end(kernels::kPerturbInfos),
                                    [&](const kernels::PerturbInfo& i) { return i.name == name; });
    if (info == std::end(kernels::kPerturbInfos) || choice.operations.size() == kernels::kNumPerturbOps) {
      throw Error(ErrorKind::kUsage, fmt::format("cd.pool: '{}' is no perturbation", name),
                  "paper, official, all, or a list of: " + names);
    }
    choice.operations.push_back(info->op);
    at = comma + 1;
  }
  return choice;
}

// Competitive distillation: the network that does best on a batch teaches the others on that batch.
//
//   t = argmin_k CE_k over batch means;  L_t = CE_t
//   L_k = CE_k + a T^2 KL_T(z_t -> z_k) + b L_F(k, t)      for k != t
//
// L_F: squared distance of the stage maps, the student's through a 1x1 adapter (no bias) where channels
// differ, the larger map average-pooled where sizes differ. One random network sees a perturbed batch
// (cd.perturb). With rule all_better every network learns from all networks with a smaller loss, averaged, as
// the published code does.
class Competitive final : public Method {
 public:
  explicit Competitive(const MethodOptions& o)
      : rule_(static_cast<kernels::SelectRule>(o.choice("cd.rule"))),
        a_(o.number("cd.a")),
        b_(o.number("cd.b")),
        temperature_(o.number("cd.T")),
        feature_loss_(static_cast<FeatureLoss>(o.choice("cd.lf"))),
        layers_(static_cast<FeatureLayers>(o.choice("cd.lf_layers"))),
        feature_on_perturbed_(o.flag("cd.lf_on_perturbed")),
        perturb_(o.flag("cd.perturb")) {
    perturbation_ = parse_pool(o.text("cd.pool"));
    perturbation_.period = static_cast<int>(o.integer("cd.period"));
    perturbation_.per_sample = o.flag("cd.per_sample");
    if (o.choice("cd.domain") > 0)
      perturbation_.domain = static_cast<kernels::PerturbDomain>(o.choice("cd.domain") - 1);
    pool_ = o.text("cd.pool");
  }

  std::string formula(int) const override {
    std::string text = fmt::format(
        "teacher t = argmin_k CE_k (batch mean); net t: CE(z_t, y); net i: CE(z_i, y) + {:g} T^2 "
        "KL(softmax(z_t/T) || softmax(z_i/T))",
        a_);
    if (rule_ == kernels::SelectRule::kAllBetter) {
      text = fmt::format(
          "net i: CE(z_i, y) + {:g} mean_(j: CE_j < CE_i) T^2 KL(softmax(z_j/T) || softmax(z_i/T))", a_);
    }
    if (feature_loss_ != FeatureLoss::kOff && b_ > 0) {
      constexpr const char* kNames[] = {"mse", "sum_over_batch", "sum"};
      text += fmt::format(" + {:g} L_F({}, {})", b_, kNames[static_cast<int>(feature_loss_)],
                          layers_ == FeatureLayers::kLast ? "last stage" : "all stages");
    }
    text += fmt::format(", T={:g}, batchmean, teacher detached, simultaneous update; ", temperature_);
    return text + perturbation_text();
  }

  std::optional<PerturbationChoice> perturbation() const override {
    return perturb_ ? std::optional(perturbation_) : std::nullopt;
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const int m = static_cast<int>(probe.size());
    weights_ = LossWeights::make(ctx, m);
    if (!has_features()) return;
    std::vector<std::vector<Tensor>> maps;
    for (const models::Outputs& outputs : probe) maps.push_back(outputs.stages);
    for (int student = 0; student < m; ++student) {
      for (int teacher = 0; teacher < m; ++teacher) {
        if (student == teacher) continue;
        for (const StagePair pair : stage_pairs(probe, student, teacher))
          adapters_.add(maps, student, teacher, pair);
      }
    }
    adapters_.materialize(ctx);
  }

  std::vector<ParameterSet*> extra_parameters(int member) override { return adapters_.of(member); }

  void losses(Context& ctx, StepView& view) override {
    const ops::TeacherChoice choice{.rule = rule_,
                                    .kl = a_,
                                    .feature = has_features() ? b_ : 0.0,
                                    .masked_member = feature_on_perturbed_ ? Tensor{} : view.masked_member};
    feature_weight_ =
        logit_losses_by_choice(ctx, view, weights_, {.temperature = temperature_}, choice).feature_weight;
  }

  void feature_losses(Context& ctx, StepView& view, int member) override {
    if (!has_features()) return;
    for (int teacher = 0; teacher < view.members(); ++teacher) {
      if (teacher == member) continue;
      for (const StagePair pair : stage_pairs(view.outputs, member, teacher))
        match(ctx, view, member, teacher, pair);
    }
  }

 private:
  std::string perturbation_text() const {
    if (!perturb_) return "no perturbation";
    int period = perturbation_.period;
    if (period == 0) period = perturbation_.preset == PerturbationChoice::Preset::kOfficial ? 10 : 1;
    return fmt::format("one random network perturbed every {} step(s), pool {}", period, pool_);
  }

  bool has_features() const { return feature_loss_ != FeatureLoss::kOff && b_ > 0; }

  // Stages are aligned from the end; the stem's map (f0) is left out.
  std::vector<StagePair> stage_pairs(const std::vector<models::Outputs>& outputs, int student,
                                     int teacher) const {
    const std::size_t s = outputs[static_cast<std::size_t>(student)].stages.size();
    const std::size_t t = outputs[static_cast<std::size_t>(teacher)].stages.size();
    if (s == 0 || t == 0) return {};
    std::vector<StagePair> pairs = {{s - 1, t - 1}};
    if (layers_ == FeatureLayers::kLast) return pairs;
    for (std::size_t back = 2; back < s && back < t; ++back) pairs.push_back({s - back, t - back});
    return pairs;
  }

  void match(Context& ctx, StepView& view, int member, int teacher, StagePair pair) {
    const auto maps = adapters_.match(
        ctx, view.outputs[static_cast<std::size_t>(member)].stages[pair.student],
        view.outputs[static_cast<std::size_t>(teacher)].stages[pair.teacher], member, teacher, pair.student);
    const Tensor weight = ops::entry(feature_weight_, member, teacher);
    const Tensor value = ops::feature_l2(ctx, maps.student, maps.teacher, weight,
                                         {.reduction = reduction_of(feature_loss_),
                                          .valid_rows = view.valid_rows,
                                          .loss = ops::entry(view.report.loss, member)});
    view.report.feature_terms.push_back({member, weight, value});
  }

  kernels::SelectRule rule_;
  double a_, b_, temperature_;
  FeatureLoss feature_loss_;
  FeatureLayers layers_;
  bool feature_on_perturbed_, perturb_;
  PerturbationChoice perturbation_;
  std::string pool_;
  LossWeights weights_;
  Tensor feature_weight_;
  Adapters adapters_;
};

std::vector<OptionSpec> options() {
  return {{.key = "cd.rule",
           .type = OptionType::kChoice,
           .default_value = "argmin",
           .help = "who teaches: the best network of the batch, or all better ones averaged (published code)",
           .choices = {"argmin", "all_better"}},
          {.key = "cd.a", .default_value = "1", .help = "weight of the KL term", .min = 0},
          {.key = "cd.b", .default_value = "1", .help = "weight of the feature loss", .min = 0},
          {.key = "cd.T", .default_value = "1", .help = "temperature", .min = 1e-3},
          {.key = "cd.lf",
           .type = OptionType::kChoice,
           .default_value = "mse",
           .help = "reduction of the feature loss: mean over elements, sum over all but mean over the batch, "
                   "sum, or none",
           .choices = {"mse", "sum_over_batch", "sum", "off"}},
          {.key = "cd.lf_layers",
           .type = OptionType::kChoice,
           .default_value = "last",
           .help = "which maps the feature loss compares",
           .choices = {"last", "all_stages"}},
          {.key = "cd.lf_on_perturbed",
           .type = OptionType::kBool,
           .default_value = "false",
           .help = "keep the feature loss of pairs with a geometrically perturbed network"},
          {.key = "cd.perturb",
           .type = OptionType::kBool,
           .default_value = "true",
           .help = "stochastic perturbation"},
          {.key = "cd.period",
           .type = OptionType::kInteger,
           .default_value = "0",
           .help = "perturb every n-th step; 0: as the pool does (paper 1, official 10)",
           .min = 0,
           .max = 1e9},
          {.key = "cd.pool",
           .type = OptionType::kText,
           .default_value = "paper",
           .help = "perturbations: paper, official, all, or a comma-separated list"},
          {.key = "cd.per_sample",
           .type = OptionType::kBool,
           .default_value = "false",
           .help = "draw the parameters of a perturbation per sample instead of per batch"},
          {.key = "cd.domain",
           .type = OptionType::kChoice,
           .default_value = "preset",
           .help = "perturb pixels in [0, 1], or the normalised input; preset: as the pool does (official: "
                   "normalised)",
           .choices = {"preset", "pixel", "normalised"}}};
}

}  // namespace

MethodInfo competitive_info() {
  return {.name = "competitive",
          .summary = "the network that does best on a batch teaches the others on that batch",
          .equation = "L_k = CE_k + a T^2 KL_T(z_t -> z_k) + b L_F(k, t), t = argmin CE, L_t = CE_t",
          .paper =
              "Competitive distillation: the best network of each batch is the teacher, with stochastic "
              "perturbation",
          .options = options(),
          .fidelities = {{"paper",
                          "the best network alone teaches, every step is perturbed; not here: L_F as a sum "
                          "of squares, which "
                          "diverges with b = 1 (cd.lf=sum has it), a mean instead",
                          {{"cd.rule", "argmin"},
                           {"cd.a", "1"},
                           {"cd.b", "1"},
                           {"cd.T", "1"},
                           {"cd.lf", "mse"},
                           {"cd.perturb", "true"},
                           {"cd.pool", "paper"},
                           {"cd.period", "1"}}},
                         {"official-code",
                          "all better networks teach, no L_F, six perturbations of normalised values in "
                          "every tenth step; not "
                          "here: AdamW with a rate that never falls, images enlarged to 224 x 224",
                          {{"cd.rule", "all_better"},
                           {"cd.a", "1"},
                           {"cd.b", "0"},
                           {"cd.T", "1"},
                           {"cd.lf", "off"},
                           {"cd.perturb", "true"},
                           {"cd.pool", "official"},
                           {"cd.period", "10"}}}},
          .make = [](const MethodOptions& o) -> std::unique_ptr<Method> {
            return std::make_unique<Competitive>(o);
          }};
}

}  // namespace cohort::distill
