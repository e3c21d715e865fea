// Settings, names and help of what the other layers offer: nothing about a method, model or data set is
// written twice.
#include <fmt/format.h>

#include <algorithm>

#include "data/registry.h"
#include "distill/addition.h"
#include "kernels/perturb_math.h"
#include "models/registry.h"
#include "tools/option_keys.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

OptionKey from_method_option(const distill::OptionSpec& spec) {
  OptionKey key;
  key.path = "distill." + spec.key;
  key.help = spec.help;
  key.choices = spec.choices;
  if (spec.min > -1e300) key.min = spec.min;
  if (spec.max < 1e300) key.max = spec.max;
  switch (spec.type) {
    case distill::OptionType::kBool:
      key.type = KeyType::kBool;
      key.default_value = spec.default_value == "true";
      break;
    case distill::OptionType::kInteger:
      key.type = KeyType::kInt;
      key.default_value = parse_int(spec.default_value).value();
      break;
    case distill::OptionType::kNumber:
      key.type = KeyType::kFloat;
      key.default_value = parse_float(spec.default_value).value();
      break;
    case distill::OptionType::kChoice:
      key.type = KeyType::kChoice;
      key.default_value = spec.default_value;
      break;
    case distill::OptionType::kText:
      key.type = KeyType::kText;
      key.default_value = spec.default_value;
      key.joins_lists = true;
      break;
  }
  return key;
}

}  // namespace

std::vector<OptionKey> method_keys() {
  std::vector<OptionKey> keys = {{.path = "distill.icl",
                                  .type = KeyType::kBool,
                                  .default_value = false,
                                  .help = "every network draws its own augmentation of the same images"}};
  const auto add = [&](const std::vector<distill::OptionSpec>& specs) {
    for (const distill::OptionSpec& spec : specs) {
      OptionKey key = from_method_option(spec);
      // The variants of a method share options.
      const bool known =
          std::any_of(keys.begin(), keys.end(), [&](const OptionKey& k) { return k.path == key.path; });
      if (!known) keys.push_back(std::move(key));
    }
  };
  for (const distill::MethodInfo& method : distill::registry()) add(method.options);
  for (const distill::AdditionInfo& addition : distill::additions()) add(addition.options);
  return keys;
}

const std::vector<NamedEntry>& method_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const distill::MethodInfo& info : distill::registry())
      list.push_back({info.name, info.summary, info.paper});
    return list;
  }();
  return entries;
}

const std::vector<NamedEntry>& addition_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const distill::AdditionInfo& info : distill::additions())
      list.push_back({info.name, info.summary, info.paper});
    return list;
  }();
  return entries;
}

const std::vector<NamedEntry>& fidelity_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const distill::MethodInfo& info : distill::registry()) {
      for (const distill::Fidelity& fidelity : info.fidelities) {
        std::vector<std::string> settings;
        for (const auto& [key, value] : fidelity.settings) settings.push_back(key + "=" + value);
        list.push_back({info.name + " " + fidelity.name, fidelity.help, join(settings, " ")});
      }
    }
    return list;
  }();
  return entries;
}

const std::vector<NamedEntry>& model_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const models::ModelInfo& info : models::registry())
      list.push_back({info.name, info.description, info.paper});
    return list;
  }();
  return entries;
}

const std::vector<NamedEntry>& perturbation_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const kernels::PerturbInfo& info : kernels::kPerturbInfos) {
      list.push_back({info.name, info.summary, info.mixes_labels ? "mixes labels" : "keeps labels"});
    }
    return list;
  }();
  return entries;
}

const std::vector<NamedEntry>& dataset_entries() {
  static const std::vector<NamedEntry> entries = [] {
    std::vector<NamedEntry> list;
    for (const data::DatasetEntry& entry : data::dataset_entries()) {
      list.push_back({entry.name, entry.summary, entry.needs_files ? "files below --data-root" : "built in"});
    }
    return list;
  }();
  return entries;
}

}  // namespace cohort::tools
