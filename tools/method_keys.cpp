// Options of the methods. Section and defaults follow the papers; where published codes disagree, the paper's
// rule is the default and the other one has a key.
#include "tools/option_keys.h"

namespace cohort::tools {
namespace {

OptionKey number(std::string path, double value, double min, double max, std::string help) {
  return {.path = std::move(path),
          .type = KeyType::kFloat,
          .default_value = value,
          .min = min,
          .max = max,
          .help = std::move(help)};
}

OptionKey flag(std::string path, bool value, std::string help) {
  return {.path = std::move(path), .type = KeyType::kBool, .default_value = value, .help = std::move(help)};
}

OptionKey choice(std::string path, std::string value, std::vector<std::string> choices, std::string help) {
  return {.path = std::move(path),
          .type = KeyType::kChoice,
          .default_value = std::move(value),
          .choices = std::move(choices),
          .help = std::move(help)};
}

std::vector<std::string> pool_choices() {
  std::vector<std::string> names = {"paper", "official", "all"};
  for (const NamedEntry& entry : perturbation_entries()) names.push_back(entry.name);
  return names;
}

std::vector<OptionKey> shared_keys() {
  OptionKey temperature = number("distill.temperature", 1.0, 1e-3, 1e3,
                                 "softens targets and outputs; KL is scaled by its square");
  temperature.flag = "--temperature";
  temperature.metavar = "T";
  OptionKey weight = number("distill.weight", 1.0, 0, 1e6, "weight of the KL term");
  weight.flag = "--weight";
  weight.metavar = "X";
  return {
      temperature,
      weight,
      {.path = "distill.start_epoch",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1e6,
       .help = "networks learn alone before this epoch (0-based)"},
      flag("distill.icl", false, "every network draws its own augmentation of the same images"),
  };
}

}  // namespace

std::vector<OptionKey> method_keys() {
  std::vector<OptionKey> keys = shared_keys();
  keys.push_back({.path = "distill.kd.teacher",
                  .type = KeyType::kText,
                  .default_value = std::string(),
                  .help = "id of the frozen network; the last one when left out"});
  keys.push_back(number("distill.kd.alpha", 0.1, 0, 1e6, "weight of the student's cross-entropy"));
  keys.push_back(number("distill.kd.beta", 0.9, 0, 1e6, "weight of the KL term"));
  keys.push_back(choice("distill.dml.norm", "mean", {"mean", "sum"}, "mean or sum over the peers"));
  keys.push_back(flag("distill.dml.attached", false, "let gradients flow into the peers' distributions"));
  keys.push_back({.path = "distill.dml.weights",
                  .type = KeyType::kFloatList,
                  .default_value = std::vector<double>(),
                  .min = 0,
                  .max = 1e6,
                  .help = "M x M weights, row i: what network i learns from each; empty: all 1"});
  keys.push_back(choice("distill.kdcl.scope", "sample", {"sample", "batch"},
                        "naive, linear: decide per sample or per batch"));
  keys.push_back(choice("distill.kdcl.negative", "simplex", {"simplex", "clip", "allow"},
                        "general: what to do with negative weights"));
  keys.push_back(choice("distill.cd.rule", "argmin", {"argmin", "all_better"},
                        "the best network teaches, or all better ones"));
  keys.push_back(number("distill.cd.feature_weight", 1.0, 0, 1e6, "weight of the feature term"));
  keys.push_back(choice("distill.cd.lf", "mse", {"mse", "sum_over_batch", "sum", "off"},
                        "reduction of the feature term"));
  keys.push_back(
      choice("distill.cd.lf_layers", "last", {"last", "all_stages"}, "maps that the feature term compares"));
  keys.push_back(flag("distill.cd.lf_on_perturbed", false,
                      "keep the feature term for the network that saw a moved image"));
  keys.push_back(flag("distill.cd.perturb", true, "stochastic perturbation of one network's input"));
  keys.push_back({.path = "distill.cd.period",
                  .type = KeyType::kInt,
                  .default_value = std::int64_t{1},
                  .min = 1,
                  .max = 1e9,
                  .help = "perturb every N-th step"});
  keys.push_back({.path = "distill.cd.pool",
                  .type = KeyType::kTextList,
                  .default_value = std::vector<std::string>{"paper"},
                  .choices = pool_choices(),
                  .help = "perturbations to draw from"});
  keys.push_back(flag("distill.cd.per_sample", false, "draw parameters per image, not per batch"));
  keys.push_back(
      choice("distill.cd.domain", "pixel", {"pixel", "normalised"}, "perturb pixels or normalised values"));
  return keys;
}

const std::vector<NamedEntry>& method_entries() {
  static const std::vector<NamedEntry> entries = {
      {"independent", "no teaching: the baseline", ""},
      {"kd", "one frozen teacher", "Hinton 2015"},
      {"dml", "every network learns from every other", "Zhang 2018, Deep Mutual Learning"},
      {"kdcl-naive", "per sample, the network with the lowest loss is the target", "Guo 2020, KDCL"},
      {"kdcl-linear", "per sample, the best convex mix of logits is the target", "Guo 2020, KDCL"},
      {"kdcl-minlogit", "the class-wise minimum of centred logits is the target", "Guo 2020, KDCL"},
      {"kdcl-general", "probabilities weighted by validation error covariance", "Guo 2020, KDCL"},
      {"competitive", "the network with the lowest loss of the batch teaches the others",
       "Competitive Distillation"},
  };
  return entries;
}

const std::vector<NamedEntry>& perturbation_entries() {
  static const std::vector<NamedEntry> entries = {
      {"mixup", "mix with another image of the batch", ""},
      {"cutmix", "paste a box of another image", ""},
      {"mosaic", "2 x 2 mosaic of four images", ""},
      {"gaussian_noise", "additive Gaussian noise", ""},
      {"elastic", "smooth random displacement", ""},
      {"affine", "shear, translate, scale", ""},
      {"random_crop", "crop 30 to 70 % and resize back", ""},
      {"rotate30", "rotate by up to 30 degrees", ""},
      {"hflip", "mirror left-right", ""},
      {"vflip", "mirror top-bottom", ""},
      {"jitter_blur", "colour jitter, then Gaussian blur", ""},
  };
  return entries;
}

}  // namespace cohort::tools
