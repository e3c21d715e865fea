#include "distill/addition.h"
#include "distill/methods/adm_terms.h"
#include "distill/methods/methods.h"

// Asymmetric decision-making: mutual learning with the terms of adm_terms.h; the same terms join other
// methods as the addition `adm`.
namespace cohort::distill {
namespace {

constexpr const char* kPaper = "Asymmetric decision-making in online knowledge distillation (ADM)";

}  // namespace

MethodInfo adm_info() {
  MethodInfo dml = dml_info();
  std::vector<OptionSpec> options = dml.options;
  options.insert(options.end(), adm_options().begin(), adm_options().end());
  return {.name = "adm",
          .summary =
              "mutual learning; students dwell on what they share with the teacher, the teacher on the rest",
          .equation = "L = L_dml + gamma L_feat + alpha L_co (students) + beta L_di (teachers)",
          .paper = kPaper,
          .options = options,
          .fidelities =
              {{"paper",
                "CIFAR-100: alpha = beta = 0.01, gamma = 1, both terms as cross-entropies",
                {{"adm.alpha", "0.01"},
                 {"adm.beta", "0.01"},
                 {"adm.gamma", "1"},
                 {"adm.T", "1"},
                 {"adm.co_form", "ce"},
                 {"adm.di_form", "ce"},
                 {"adm.feat", "stages"},
                 {"adm.feat_form", "mse"},
                 {"adm.preact", "true"},
                 {"dml.norm", "mean"},
                 {"dml.T", "1"},
                 {"dml.lambda", "1"}}},
               {"paper-imagenet",
                "alpha = 0.2, beta = 0.6, gamma = 0.01, the consensus term as KL (the row of table 15 that "
                "is table "
                "3's)",
                {{"adm.alpha", "0.2"},
                 {"adm.beta", "0.6"},
                 {"adm.gamma", "0.01"},
                 {"adm.T", "1"},
                 {"adm.co_form", "kd"},
                 {"adm.di_form", "ce"},
                 {"adm.feat", "stages"},
                 {"adm.feat_form", "mse"},
                 {"adm.preact", "true"},
                 {"dml.norm", "mean"},
                 {"dml.T", "1"},
                 {"dml.lambda", "1"}}},
               {"paper-table11",
                "three networks on CIFAR-100: as paper, the mutual KL summed; who teaches is adm.teachers",
                {{"adm.alpha", "0.01"},
                 {"adm.beta", "0.01"},
                 {"adm.gamma", "1"},
                 {"adm.T", "1"},
                 {"adm.co_form", "ce"},
                 {"adm.di_form", "ce"},
                 {"adm.feat", "stages"},
                 {"adm.feat_form", "mse"},
                 {"adm.preact", "true"},
                 {"dml.norm", "sum"},
                 {"dml.T", "1"},
                 {"dml.lambda", "1"}}}},
          .make = [](const MethodOptions& o) { return with_adm_terms(dml_info().make(o), o); }};
}

AdditionInfo adm_addition() {
  return {.name = "adm",
          .summary = "students dwell on what they share with the teacher, the teacher on the rest",
          .equation = "+ gamma L_feat + alpha L_co (students) + beta L_di (teachers)",
          .paper = kPaper,
          .options = adm_options(),
          .add = [](std::unique_ptr<Method> base, const MethodOptions& o) {
            return with_adm_terms(std::move(base), o);
          }};
}

}  // namespace cohort::distill
