// Several runs side by side: mean, deviation and median over seeds, the difference to independent training,
// and what was published.
#pragma once

#include <string>
#include <vector>

#include "tools/run_records.h"
#include "tools/table.h"

namespace cohort::tools {

// A run's summary under the names that a table gives it.
struct LabelledRun {
  std::string pair;    // of networks; empty: the runs are not told apart by it
  std::string method;  // "dml", "dml+adm", "Naive+ICL"
  Json summary;
};
// Under the method that trained it.
LabelledRun labelled(const Json& summary);

struct ComparisonRow {
  struct Value {
    double seed;
    double top1;  // share
  };
  std::string pair, method, net, model;
  std::vector<Value> at_best, last;  // on the test set; one per seed
  double seconds = 0;                // mean per run
  int runs = 0;
  double published = -1;  // percent; negative: nothing is
};

struct Spread {
  double mean = 0;
  double deviation = 0;  // of the sample; NaN for one value
  double median = 0;
};
Spread spread(std::vector<double> values);

// Half the width of the 95 % interval of the mean (Student's t); NaN below two values.
double half_interval(const std::vector<double>& values);

// Rows in the order in which pairs, methods and networks first appear. Runs that are not "finished" are left
// out.
std::vector<ComparisonRow> compare_runs(const std::vector<LabelledRun>& runs);

// Differences are paired by seed: each against the run of `independent` with the same pair, seed and network.
Table comparison_table(const std::vector<ComparisonRow>& rows);
Json comparison_json(const std::vector<ComparisonRow>& rows);
// One line per row under a header; numbers with all their digits, shares not percent.
std::string comparison_csv(const std::vector<ComparisonRow>& rows);

}  // namespace cohort::tools
