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
