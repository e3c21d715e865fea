#include "tools/published.h"

#include <fmt/format.h>

#include "kernels/base/error.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

using Settings = std::vector<std::pair<std::string, std::string>>;
using Top1 = std::map<std::string, double>;

constexpr const char* kVanilla = "independent";

Top1 ab(double a, double b) {
  return {{"a", a}, {"b", b}};
}

PublishedRow vanilla(double a, double b) {
  return {kVanilla, {{"method", "independent"}}, ab(a, b)};
}

// A row of the paper, and the same with a view of its own for every network.
void with_and_without_icl(std::vector<PublishedRow>& rows, const std::string& label, const Settings& settings,
                          const Top1& shared, const Top1& own_views) {
  rows.push_back({label, settings, shared});
  Settings icl = settings;
  icl.emplace_back("distill.icl", "true");
  rows.push_back({label + "+ICL", icl, own_views});
}

// Learns its weights from a tenth of the training images (50 per class of CIFAR-100) and trains on the
// others.
const Settings kGeneral = {{"method", "kdcl-general"}, {"data.val_fraction", "0.1"}};

PublishedTable kdcl_table7() {
  std::vector<PublishedRow> rows = {vanilla(69.9, 72.2)};
  const Settings kd = {{"method", "kd"}, {"distill.kd.a", "1"}, {"distill.kd.b", "1"}, {"distill.kd.T", "2"}};
  const std::string from = ",init={vanilla}/checkpoints/last/";
  rows.push_back(
      {"KD b->a", kd, ab(73.3, 72.2), {"wrn_16_2:id=b" + from + "b.safetensors", "resnet32:id=a"}});
  rows.push_back(
      {"KD a->b", kd, ab(69.9, 74.5), {"resnet32:id=a" + from + "a.safetensors", "wrn_16_2:id=b"}});
  rows.push_back({"DML", {{"method", "dml"}}, ab(73.3, 74.8)});
  rows.push_back({"ONE, 3 branches",
                  {{"method", "one"}},
                  {{"a", 73.6}},
                  {"resnet32:id=a", "resnet32:id=b", "resnet32:id=c"}});
  rows.push_back({"CLNN, 4 heads in pairs",
                  {{"method", "clnn"}, {"distill.clnn.shared", "2"}, {"distill.clnn.pairs", "3"}},
                  {{"a", 73.4}},
                  {"resnet32:id=a", "resnet32:id=b", "resnet32:id=c", "resnet32:id=d"}});
  with_and_without_icl(rows, "Naive", {{"method", "kdcl-naive"}}, ab(73.7, 74.8), ab(73.8, 74.9));
  with_and_without_icl(rows, "Linear", {{"method", "kdcl-linear"}}, ab(73.4, 74.6), ab(73.6, 74.9));
  with_and_without_icl(rows, "MinLogit", {{"method", "kdcl-minlogit"}}, ab(73.0, 74.1), ab(73.5, 74.6));
  with_and_without_icl(rows, "General", kGeneral, ab(74.0, 75.2), ab(74.3, 75.5));
  return {"kdcl-table7",
          "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020, table 7",
          "kdcl.cifar",
          "median of 5 runs",
          {{"resnet32+wrn_16_2", {"resnet32:id=a", "wrn_16_2:id=b"}, rows}}};
}

PublishedTable kdcl_table9() {
  const std::vector<std::pair<const char*, Top1>> values = {
      {"0.1", ab(71.5, 73.9)}, {"0.2", ab(73.3, 74.5)}, {"0.5", ab(73.8, 75.0)}, {"1", ab(74.3, 75.5)},
      {"2", ab(74.7, 76.1)},   {"5", ab(74.0, 74.9)},   {"10", ab(72.9, 74.5)}};
  std::vector<PublishedRow> rows;
  for (const auto& [lambda, top1] : values) {
    Settings settings = kGeneral;
    settings.emplace_back("distill.icl", "true");
    settings.emplace_back("distill.kdcl.lambda", lambda);
    rows.push_back({fmt::format("lambda {}", lambda), settings, top1});
  }
  return {"kdcl-table9",
          "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020, table 9 "
          "(General+ICL)",
          "kdcl.cifar",
          "median of 5 runs",
          {{"resnet32+wrn_16_2", {"resnet32:id=a", "wrn_16_2:id=b"}, rows}}};
}

PublishedTable kdcl_table10() {
  const Settings cutout = {{"data.cutout", "8"}};
  const auto with = [&](Settings settings) {
    settings.insert(settings.end(), cutout.begin(), cutout.end());
    return settings;
  };
  std::vector<PublishedRow> rows = {{kVanilla, with({{"method", "independent"}}), ab(72.3, 74.3)}};
  with_and_without_icl(rows, "KDCL", with(kGeneral), ab(74.3, 75.5), ab(74.6, 75.8));
  return {
      "kdcl-table10",
      "Guo et al., Online knowledge distillation via collaborative learning, CVPR 2020, table 10 (Cutout)",
      "kdcl.cifar",
      "median of 5 runs",
      {{"resnet32+wrn_16_2", {"resnet32:id=a", "wrn_16_2:id=b"}, rows}}};
}

// The teacher comes first; the table's columns are student, teacher.
PublishedPair adm_pair(const std::string& student, const std::string& teacher,
                       const std::string& student_rate, const std::vector<Top1>& values) {
  const std::vector<std::pair<const char*, Settings>> methods = {
      {kVanilla, {{"method", "independent"}}},
      {"DML", {{"method", "dml"}}},
      {"KDCL", {{"method", "kdcl-minlogit"}, {"distill.kdcl.T", "1"}}},
      {"SwitOKD", {{"method", "switokd"}}},
      {"DML+ADM", {{"method", "adm"}}},
      {"SwitOKD+ADM", {{"method", "switokd"}, {"add", "adm"}}}};
  PublishedPair pair{student + "+" + teacher, {teacher + ":id=t", student + ":id=s" + student_rate}, {}};
  for (std::size_t i = 0; i < values.size(); ++i)
    pair.rows.push_back({methods[i].first, methods[i].second, values[i]});
  return pair;
}

Top1 st(double student, double teacher) {
  return {{"s", student}, {"t", teacher}};
}

constexpr const char* kAdmPaper = "Asymmetric decision-making in online knowledge distillation (ADM)";

PublishedTable adm_table1() {
  return {"adm-table1",
          fmt::format("{}, table 1", kAdmPaper),
          "okd.cifar",
          "mean of 5 runs",
          {adm_pair("resnet8x4", "resnet32x4", "",
                    {st(72.33, 79.55), st(73.95, 79.99), st(74.61, 79.84), st(74.49, 79.31), st(74.23, 79.62),
                     st(74.63, 80.01)}),
           adm_pair("vgg8", "vgg13", "",
                    {st(70.58, 75.12), st(72.45, 76.19), st(71.78, 74.63), st(72.71, 75.64), st(72.80, 76.07),
                     st(72.94, 76.50)})}};
}

PublishedTable adm_table2() {
  return {
      "adm-table2",
      fmt::format("{}, table 2", kAdmPaper),
      "okd.cifar",
      "mean of 5 runs",
      {adm_pair("mobilenet_v2_half", "wrn_16_2", ",lr=0.01",
                {st(60.39, 73.01), st(66.69, 73.59), st(65.98, 71.54), st(66.68, 73.55), st(68.10, 73.62)}),
       adm_pair("shufflenet_v1", "resnet32x4", "",
                {st(68.44, 79.30), st(73.58, 80.08), st(73.91, 78.97), st(73.82, 79.37), st(74.61, 79.97)}),
       adm_pair("shufflenet_v2", "resnet32x4", "",
                {st(70.17, 79.38), st(75.15, 80.15), st(75.00, 79.14), st(75.18, 79.90), st(75.75, 80.26)})}};
}

// Offline: the teacher is the network that `independent` trained on the same recipe and seed.
PublishedTable adm_table8() {
  const auto pair = [](const std::string& student, const std::string& teacher, const std::string& rate,
                       const char* beta, double teacher_top1, const std::vector<double>& values) {
    const Settings kd = {{"method", "kd"}};
    const Settings dkd = {{"method", "dkd"}, {"distill.dkd.beta", beta}};
    const auto with_adm = [](Settings settings) {
      settings.emplace_back("add", "adm");
      settings.emplace_back("distill.adm.alpha", "1");
      return settings;
    };
    const std::vector<std::pair<const char*, Settings>> methods = {
        {"KD", kd}, {"KD+ADM", with_adm(kd)}, {"DKD", dkd}, {"DKD+ADM", with_adm(dkd)}};
    const std::string learns = student + ":id=s" + rate;
    const std::vector<std::string> nets = {teacher + ":id=t,init={vanilla}/checkpoints/last/t.safetensors",
                                           learns};
    PublishedPair result{student + "+" + teacher, {teacher + ":id=t", learns}, {}};
    result.rows.push_back({kVanilla, {{"method", "independent"}}, st(values[0], teacher_top1)});
    for (std::size_t i = 0; i < methods.size(); ++i)
      result.rows.push_back({methods[i].first, methods[i].second, {{"s", values[i + 1]}}, nets});
    return result;
  };
  const char* const slow = ",lr=0.01";  // the recipe's for MobileNet and ShuffleNet
  return {"adm-table8",
          fmt::format("{}, table 8 (offline)", kAdmPaper),
          "kd.cifar",
          "one number per pair",
          {pair("resnet8x4", "resnet32x4", "", "8", 79.42, {72.50, 73.75, 74.52, 76.24, 76.66}),
           pair("resnet20", "resnet56", "", "2", 72.34, {69.06, 71.05, 71.46, 71.52, 71.58}),
           pair("mobilenet_v2_half", "wrn_16_2", slow, "6", 73.26, {64.60, 68.91, 70.24, 69.03, 69.68}),
           pair("shufflenet_v2", "resnet32x4", slow, "8", 79.42, {71.82, 75.35, 75.73, 77.07, 77.03}),
           pair("mobilenet_v2_half", "resnet50", slow, "8", 79.34, {64.60, 68.42, 69.04, 70.35, 70.64})}};
}

// Three networks: t teaches m and s (1T2S), or t and m teach s (2T1S).
PublishedTable adm_table11() {
  const auto top1 = [](double s, double m, double t) { return Top1{{"s", s}, {"m", m}, {"t", t}}; };
  const auto swit = [](const char* roles) {
    return Settings{{"method", "switokd"}, {"distill.swit.roles", roles}};
  };
  const auto adm = [](const char* teachers) {
    return Settings{{"method", "adm"}, {"fidelity", "paper-table11"}, {"distill.adm.teachers", teachers}};
  };
  return {"adm-table11",
          fmt::format("{}, table 11 (three networks; its code trains the MobileNet with Adam)", kAdmPaper),
          "okd.cifar",
          "mean of 5 runs",
          {{"mobilenet_v1+wrn_16_2+wrn_16_10",
            {"wrn_16_10:id=t", "wrn_16_2:id=m", "mobilenet_v1:id=s,lr=0.01"},
            {{kVanilla, {{"method", "independent"}}, top1(66.01, 72.79, 79.30)},
             {"DML", {{"method", "dml"}, {"fidelity", "switokd-code"}}, top1(72.28, 74.78, 80.32)},
             {"SwitOKD 1T2S", swit("1t2s"), top1(72.20, 74.91, 80.55)},
             {"SwitOKD 2T1S", swit("2t1s"), top1(71.97, 75.07, 80.40)},
             {"ADM 1T2S", adm("0"), top1(71.69, 74.80, 80.58)},
             {"ADM 2T1S", adm("0,1"), top1(72.51, 74.09, 80.72)}}}}};
}

// Wrong labels: the same ones for every method and seed.
PublishedTable adm_table21() {
  PublishedTable table{"adm-table21",
                       fmt::format("{}, table 21 (noisy labels)", kAdmPaper),
                       "okd.cifar",
                       "mean of 5 runs",
                       {}};
  const auto add = [&](const char* student, const char* teacher, const char* rate, const char* share,
                       const std::vector<Top1>& values) {
    const std::vector<std::pair<const char*, Settings>> methods = {
        {kVanilla, {{"method", "independent"}}}, {"DML", {{"method", "dml"}}}, {"ADM", {{"method", "adm"}}}};
    PublishedPair pair{fmt::format("{}+{}, {} wrong", student, teacher, share),
                       {fmt::format("{}:id=t", teacher), fmt::format("{}:id=s{}", student, rate)},
                       {}};
    for (std::size_t i = 0; i < methods.size(); ++i) {
      Settings settings = methods[i].second;
      settings.emplace_back("data.label_noise", share);
      pair.rows.push_back({methods[i].first, settings, values[i]});
    }
    table.pairs.push_back(pair);
  };
  add("resnet8x4", "resnet32x4", "", "0.1", {st(68.50, 74.57), st(70.41, 75.78), st(70.64, 76.15)});
  add("resnet8x4", "resnet32x4", "", "0.3", {st(63.97, 69.33), st(66.56, 70.82), st(66.66, 71.14)});
  add("resnet8x4", "resnet32x4", "", "0.5", {st(57.73, 63.04), st(61.21, 64.92), st(61.40, 65.03)});
  const char* const rate = ",lr=0.01";
  add("mobilenet_v2_half", "wrn_16_2", rate, "0.1", {st(52.23, 67.89), st(62.32, 69.07), st(63.59, 70.22)});
  add("mobilenet_v2_half", "wrn_16_2", rate, "0.3", {st(42.46, 63.72), st(56.17, 63.92), st(57.74, 64.99)});
  add("mobilenet_v2_half", "wrn_16_2", rate, "0.5", {st(32.78, 58.29), st(50.04, 58.20), st(51.77, 59.34)});
  return table;
}

constexpr const char* kCompetitivePaper = "Competitive distillation";

PublishedTable competitive_main() {
  const auto pair = [](const std::string& a, const std::string& b, const std::vector<Top1>& values) {
    return PublishedPair{a + "+" + b,
                         {a + ":id=a", b + ":id=b"},
                         {{kVanilla, {{"method", "independent"}}, values[0]},
                          {"DML", {{"method", "dml"}}, values[1]},
                          {"Competitive", {{"method", "competitive"}}, values[2]}}};
  };
  return {"competitive-main",
          fmt::format("{}, main table", kCompetitivePaper),
          "cd.cifar",
          "one number per pair",
          {pair("resnet32_a", "resnet32_a", {ab(68.73, 68.73), ab(70.87, 70.87), ab(71.45, 71.45)}),
           pair("resnet56_a", "resnet152_a", {ab(73.76, 76.66), ab(75.31, 78.64), ab(76.76, 79.80)})}};
}

PublishedTable competitive_ablation() {
  const auto row = [](const char* label, const char* feature_loss, const char* perturb, double net1) {
    return PublishedRow{
        label,
        {{"method", "competitive"}, {"distill.cd.lf", feature_loss}, {"distill.cd.perturb", perturb}},
        {{"a", net1}}};
  };
  return {"competitive-ablation",
          fmt::format("{}, ablation", kCompetitivePaper),
          "cd.cifar",
          "the first network",
          {{"resnet32_a+resnet32_a",
            {"resnet32_a:id=a", "resnet32_a:id=b"},
            {row("competitive only", "off", "false", 71.13), row("+ L_F", "mse", "false", 71.24),
             row("+ perturbation", "off", "true", 71.37), row("+ both", "mse", "true", 71.45)}}}};
}

}  // namespace

const std::vector<PublishedTable>& published_tables() {
  static const std::vector<PublishedTable> tables = {
      kdcl_table7(), kdcl_table9(), kdcl_table10(), adm_table1(),       adm_table2(),
      adm_table8(),  adm_table11(), adm_table21(),  competitive_main(), competitive_ablation()};
  return tables;
}

const PublishedTable& find_published_table(std::string_view name) {
  std::vector<std::string> names;
  for (const PublishedTable& table : published_tables()) {
    if (table.name == name) return table;
    names.push_back(table.name);
  }
  const std::string suggestion = did_you_mean(std::string(name), names);
  throw Error(
      ErrorKind::kUsage,
      fmt::format("there is no table '{}'{}{}", printable(name), suggestion.empty() ? "" : "; ", suggestion),
      "tables: " + join(names, ", "));
}

}  // namespace cohort::tools
