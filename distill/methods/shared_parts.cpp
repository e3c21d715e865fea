#include "distill/methods/shared_parts.h"

#include <fmt/core.h>

namespace cohort::distill {

OptionSpec shared_parts_option(const std::string& prefix) {
  return {.key = prefix + ".shared",
          .type = OptionType::kInteger,
          .default_value = "0",
          .help = "parts that the networks have in common, the stem being the first; 0: all but the last",
          .min = 0,
          .max = 64};
}

int shared_parts(const models::Network& model, int wanted, const char* method) {
  const int parts = wanted == kAllButTheLast ? model.num_parts() - 1 : wanted;
  if (parts < model.num_parts()) return parts;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}.shared={}: a {} has {} parts, the stem included", method, wanted, model.model(),
                          model.num_parts()),
              fmt::format("every network needs a part of its own: at most {}", model.num_parts() - 1));
}

void check_branches(const char* method, int members) {
  if (members >= 2) return;
  throw Error(ErrorKind::kUsage, fmt::format("{} needs two branches or more", method),
              "a network per branch, all of one model: --net resnet32 --net resnet32 --net resnet32");
}

}  // namespace cohort::distill
