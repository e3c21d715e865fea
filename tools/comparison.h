// Several runs side by side: mean and deviation over seeds, and the difference to independent training.
#pragma once

#include <string>
#include <vector>

#include "tools/run_records.h"
#include "tools/table.h"

namespace cohort::tools {

struct ComparisonRow {
  struct Value {
    double seed;
    double top1;  // share
  };
  std::string method, net, model;
  std::vector<Value> at_best, last;  // on the test set; one per seed
  double seconds = 0;                // mean per run
  int runs = 0;
};

struct Spread {
  double mean = 0;
  double deviation = 0;  // of the sample; NaN for one value
};
Spread spread(const std::vector<double>& values);

// Half the width of the 95 % interval of the mean (Student's t); NaN below two values.
double half_interval(const std::vector<double>& values);

// Rows in the order in which methods and networks first appear. Summaries that are not "finished" are left
// out.
std::vector<ComparisonRow> compare_runs(const std::vector<Json>& summaries);

// Differences are paired by seed: each against the independent run of the same seed and network.
Table comparison_table(const std::vector<ComparisonRow>& rows);
Json comparison_json(const std::vector<ComparisonRow>& rows);

}  // namespace cohort::tools
