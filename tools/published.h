// Tables of the papers as grids of trainings: recipe, networks, methods, and the accuracies that were
// printed.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace cohort::tools {

struct PublishedRow {
  std::string label;                                          // as the table calls it
  std::vector<std::pair<std::string, std::string>> settings;  // key, value
  std::map<std::string, double> top1;                         // percent, by the network's id
  // Where a row's networks differ from its pair's (a teacher comes first, from a finished run). "{vanilla}"
  // stands for the folder of the row "independent" of the same pair and seed.
  std::vector<std::string> nets = {};
};

struct PublishedPair {
  std::string label;
  std::vector<std::string> nets;  // as --net takes them, with ids
  std::vector<PublishedRow> rows;
};

struct PublishedTable {
  std::string name;
  std::string source;     // paper, table
  std::string preset;     // its recipe
  std::string statistic;  // what the printed numbers are
  std::vector<PublishedPair> pairs;
};

const std::vector<PublishedTable>& published_tables();
// Throws Error(kUsage) with the nearest name.
const PublishedTable& find_published_table(std::string_view name);

}  // namespace cohort::tools
