// Where the rows of the option table come from.
#pragma once

#include <string>
#include <vector>

#include "tools/option_table.h"

namespace cohort::tools {

std::vector<OptionKey> common_keys();
std::vector<OptionKey> method_keys();  // [distill] and its sections, one per method
std::vector<OptionKey> network_keys();

// Names and one line of help, for --help and `cohort list`.
struct NamedEntry {
  std::string name;
  std::string help;
  std::string source{};  // paper, or where it comes from
};
const std::vector<NamedEntry>& method_entries();
const std::vector<NamedEntry>& addition_entries();
// One per method and variant: "dml okddip", its help, what it sets.
const std::vector<NamedEntry>& fidelity_entries();
const std::vector<NamedEntry>& model_entries();
const std::vector<NamedEntry>& perturbation_entries();
const std::vector<NamedEntry>& dataset_entries();

std::vector<std::string> names_of(const std::vector<NamedEntry>& entries);

}  // namespace cohort::tools
