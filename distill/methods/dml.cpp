#include <fmt/core.h>

#include <charconv>

#include "distill/logit_loss.h"
#include "distill/methods/methods.h"

namespace cohort::distill {
namespace {

enum class Norm { kMean, kSum };

// "0,0.3;1,0": one row per learner, one column per teacher.
std::vector<double> parse_matrix(const std::string& text) {
  std::vector<double> values;
  const char* at = text.data();
  const char* end = text.data() + text.size();
  while (at < end) {
    double value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || (next < end && *next != ',' && *next != ';') || !(value >= 0)) {
      throw Error(ErrorKind::kUsage, "dml.weights: '" + text + "' is not a matrix of numbers >= 0",
                  "rows are learners, columns teachers: \"0,0.3;1,0\"");
    }
    values.push_back(value);
    at = next < end ? next + 1 : next;
  }
  return values;
}

// Zhang et al., "Deep mutual learning", CVPR 2018, eq. 6 and section 2.3 (more networks).
//
//   L_k = CE_k + sum_{j != k} lambda N T^2 KL_T(z_j -> z_k),   N = 1/(M-1) (mean) or 1 (sum)
class Dml final : public Method {
 public:
  explicit Dml(const MethodOptions& options)
      : norm_(static_cast<Norm>(options.choice("dml.norm"))),
        temperature_(options.number("dml.T")),
        lambda_(options.number("dml.lambda")),
        attached_(options.flag("dml.attached")),
        order_(static_cast<UpdateOrder>(options.choice("dml.update"))),
        matrix_(parse_matrix(options.text("dml.weights"))) {
    if (attached_ && order_ != UpdateOrder::kSimultaneous) {
      throw Error(ErrorKind::kUsage, "dml.attached sends gradients to networks whose turn it is not",
                  "dml.update=simultaneous, or dml.attached=false");
    }
  }

  std::string formula(int members) const override {
    const std::string weight =
        matrix_.empty() ? fmt::format("{:g}", lambda_) : fmt::format("{:g} w_ij", lambda_);
    return fmt::format(
        "net i: CE(z_i, y) + {} {}_(j != i) T^2 KL(softmax(z_j/T) || softmax(z_i/T)), T={:g}, batchmean, "
        "targets {}, {}, {} networks",
        weight, norm_ == Norm::kMean ? "mean" : "sum", temperature_, attached_ ? "attached" : "detached",
        order_text(), members);
  }

  UpdateOrder update_order() const override { return order_; }

  void check_members(int members) const override {
    Method::check_members(members);
    if (!matrix_.empty() &&
        matrix_.size() != static_cast<std::size_t>(members) * static_cast<std::size_t>(members)) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("dml.weights has {} numbers, {} networks need {}", matrix_.size(), members,
                              members * members),
                  "one row per learner, one column per teacher");
    }
  }

  void setup(Context& ctx, const std::vector<models::Outputs>& probe) override {
    const std::size_t m = probe.size();
    weights_ = LossWeights::make(ctx, static_cast<int>(m));
    const double n = norm_ == Norm::kMean && m > 1 ? 1.0 / static_cast<double>(m - 1) : 1.0;
    std::vector<double> kl(m * m, 0.0);
    for (std::size_t i = 0; i < m; ++i) {
      for (std::size_t j = 0; j < m; ++j) {
        if (i != j) kl[i * m + j] = lambda_ * n * (matrix_.empty() ? 1.0 : matrix_[i * m + j]);
      }
    }
    upload_values(ctx, weights_.kl, kl);
  }

  void losses(Context& ctx, StepView& view) override {
    logit_losses(ctx, view, weights_, {.temperature = temperature_, .attached = attached_});
  }

 private:
  const char* order_text() const {
    switch (order_) {
      case UpdateOrder::kSimultaneous:
        return "simultaneous update";
      case UpdateOrder::kInTurn:
        return "one after the other, each from the same batch's new outputs";
      case UpdateOrder::kNewBatch:
        return "one after the other, each on a new batch";
    }
    internal_error("dml: no such order");
  }

  Norm norm_;
  double temperature_, lambda_;
  bool attached_;
  UpdateOrder order_;
  std::vector<double> matrix_;
  LossWeights weights_;
};

}  // namespace

MethodInfo dml_info() {
  return {
      .name = "dml",
      .summary = "every network teaches every other one",
      .equation = "L_k = CE_k + lambda N sum_{j != k} T^2 KL_T(z_j -> z_k)",
      .paper = "Zhang et al., Deep mutual learning, CVPR 2018",
      .options = {{.key = "dml.norm",
                   .type = OptionType::kChoice,
                   .default_value = "mean",
                   .help = "divide the KL terms by the number of peers, or not",
                   .choices = {"mean", "sum"}},
                  {.key = "dml.T", .default_value = "1", .help = "temperature", .min = 1e-3},
                  {.key = "dml.lambda", .default_value = "1", .help = "weight of the KL terms", .min = 0},
                  {.key = "dml.attached",
                   .type = OptionType::kBool,
                   .default_value = "false",
                   .help = "let gradients reach the teaching side too (OKDDip's code)"},
                  {.key = "dml.update",
                   .type = OptionType::kChoice,
                   .default_value = "simultaneous",
                   .help =
                       "all at once; or in turn, each from new outputs for the same batch (paper) or for the "
                       "next one (its code)",
                   .choices = {"simultaneous", "in-turn", "new-batch"}},
                  {.key = "dml.weights",
                   .type = OptionType::kText,
                   .default_value = "",
                   .help = "weight per direction, rows learners, columns teachers: \"0,0.3;1,0\""}},
      .fidelities =
          {{"paper",
            "KL averaged over the peers, T = 1; networks step one after the other, each from the others' new "
            "outputs",
            {{"dml.norm", "mean"},
             {"dml.T", "1"},
             {"dml.lambda", "1"},
             {"dml.attached", "false"},
             {"dml.update", "in-turn"}}},
           {"official-tf1",
            "KL summed over the peers, T = 1; networks step one after the other, each on a new batch; not "
            "here: "
            "Adam, label smoothing",
            {{"dml.norm", "sum"},
             {"dml.T", "1"},
             {"dml.lambda", "1"},
             {"dml.attached", "false"},
             {"dml.update", "new-batch"}}},
           {"okddip",
            "OKDDip's code: T = 3, gradients reach the teaching side; not here: 1e-7 on every target",
            {{"dml.norm", "mean"}, {"dml.T", "3"}, {"dml.lambda", "1"}, {"dml.attached", "true"}}},
           {"switokd-code",
            "SwitOKD's code for three networks, which ADM's table 11 uses: KL summed over the peers, T = 1",
            {{"dml.norm", "sum"}, {"dml.T", "1"}, {"dml.lambda", "1"}, {"dml.attached", "false"}}}},
      .make = [](const MethodOptions& o) -> std::unique_ptr<Method> { return std::make_unique<Dml>(o); }};
}

}  // namespace cohort::distill
