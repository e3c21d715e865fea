// Terms that join any method: `--add NAME`.
#pragma once

#include "distill/method.h"

namespace cohort::distill {

struct AdditionInfo {
  std::string name;
  std::string summary;   // one line
  std::string equation;  // what it adds to the loss
  std::string paper;
  std::vector<OptionSpec> options;
  // The method with the terms. Throws Error(kUsage) when the two do not go together.
  std::unique_ptr<Method> (*add)(std::unique_ptr<Method> base, const MethodOptions& options);
};

const std::vector<AdditionInfo>& additions();
// Throws Error(kUsage) with the names there are.
const AdditionInfo& find_addition(std::string_view name);

}  // namespace cohort::distill
