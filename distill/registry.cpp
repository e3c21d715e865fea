#include "distill/method.h"
#include "distill/methods/methods.h"

namespace cohort::distill {

const std::vector<MethodInfo>& registry() {
  static const std::vector<MethodInfo> methods = {
      independent_info(), kd_info(),          dkd_info(),           dml_info(),
      kdcl_naive_info(),  kdcl_linear_info(), kdcl_minlogit_info(), kdcl_general_info(),
      kdcl_mean_info(),   competitive_info(), switokd_info(),       adm_info(),
      fitnet_info(),      shake_info(),       diswot_info(),        norm_info(),
      one_info(),         clnn_info(),        afid_info(),          afd_info()};
  return methods;
}

const MethodInfo& find_method(std::string_view name) {
  std::string names;
  for (const MethodInfo& info : registry()) {
    if (info.name == name) return info;
    names += (names.empty() ? "" : ", ") + info.name;
  }
  throw Error(ErrorKind::kUsage, "unknown method '" + std::string(name) + "'", "methods: " + names);
}

const std::vector<AdditionInfo>& additions() {
  static const std::vector<AdditionInfo> all = {adm_addition()};
  return all;
}

const AdditionInfo& find_addition(std::string_view name) {
  std::string names;
  for (const AdditionInfo& info : additions()) {
    if (info.name == name) return info;
    names += (names.empty() ? "" : ", ") + info.name;
  }
  throw Error(ErrorKind::kUsage, "unknown addition '" + std::string(name) + "'", "additions: " + names);
}

}  // namespace cohort::distill
