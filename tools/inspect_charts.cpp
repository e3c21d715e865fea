#include "tools/inspect_charts.h"

#include <fmt/format.h>

#include "core/checksum.h"
#include "tools/calibration.h"
#include "tools/inspect_similarity.h"
#include "tools/messages.h"
#include "tools/predictions.h"
#include "tools/table.h"
#include "tools/teacher_timeline.h"
#include "tools/text.h"
#include "tools/weights_source.h"

namespace cohort::tools {
namespace {

void write_charts(const std::string& path, const std::string& title, const std::vector<Chart>& charts) {
  durable_replace(system_file_system(), path, as_byte_span(svg_document(title, charts)));
}

struct Calibrated {
  std::string id, model;
  distill::Scores scores;
};

Json calibration_json(const std::vector<Calibrated>& networks) {
  Json list = Json::array();
  for (const Calibrated& network : networks) {
    Json row = {{"id", network.id}, {"model", network.model}};
    put_number(row, "top1", network.scores.top1);
    put_number(row, "ece", network.scores.ece);
    row["bins"] = bins_json(network.scores.bins);
    list.push_back(std::move(row));
  }
  return list;
}

std::string calibration_table(const std::vector<Calibrated>& networks) {
  std::vector<Table::Column> columns = {{"confidence"}};
  for (const Calibrated& network : networks) {
    columns.push_back({network.id + " images", Align::kRight});
    columns.push_back({"right %", Align::kRight});
    columns.push_back({"sure %", Align::kRight});
  }
  Table table(columns);
  for (std::size_t i = 0; i < distill::kCalibrationBins; ++i) {
    std::vector<std::string> cells = {fmt::format("{:.3f} to {:.3f}",
                                                  static_cast<double>(i) / distill::kCalibrationBins,
                                                  static_cast<double>(i + 1) / distill::kCalibrationBins)};
    for (const Calibrated& network : networks) {
      const distill::CalibrationBin& bin = network.scores.bins[i];
      const bool some = bin.samples > 0;
      cells.push_back(std::to_string(bin.samples));
      cells.push_back(some ? fmt::format("{:.2f}", 100 * static_cast<double>(bin.correct) /
                                                       static_cast<double>(bin.samples))
                           : "-");
      cells.push_back(some ? fmt::format("{:.2f}", 100 * bin.confidence) : "-");
    }
    table.add(std::move(cells));
  }
  std::string text = table.text();
  for (const Calibrated& network : networks)
    text += fmt::format("{}  ECE {:.4f}\n", network.id, network.scores.ece);
  return text;
}

std::string share(std::int64_t part, std::int64_t whole) {
  return whole == 0 ? "-"
                    : fmt::format("{:.2f}", 100 * static_cast<double>(part) / static_cast<double>(whole));
}

std::string timeline_table(const TeacherTimeline& timeline) {
  std::vector<Table::Column> columns = {{timeline.by_step ? "steps" : "epochs", Align::kRight}};
  for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
    if (timeline.has_teacher()) columns.push_back({timeline.ids[k] + " taught %", Align::kRight});
    if (timeline.has_modes(k)) columns.push_back({timeline.ids[k] + " paused %", Align::kRight});
  }
  Table table(columns);
  for (const TeacherTimeline::Window& window : timeline.windows) {
    std::vector<std::string> cells = {window.first == window.last
                                          ? std::to_string(window.first)
                                          : fmt::format("{}-{}", window.first, window.last)};
    for (std::size_t k = 0; k < timeline.ids.size(); ++k) {
      const TeacherTimeline::Network& network = window.networks[k];
      if (timeline.has_teacher()) cells.push_back(share(network.taught, window.steps));
      if (timeline.has_modes(k)) cells.push_back(share(network.expert, network.expert + network.learning));
    }
    table.add(std::move(cells));
  }
  return table.text();
}

}  // namespace

std::vector<FlagSpec> chart_flags() {
  return {{"--split", "", "PART", "of calibration: test, val or train (test)", "Run"},
          {"--window", "", "N", "of teachers: steps that are summed up (the steps of an epoch)", "Run"}};
}

int inspect_calibration(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[1];
  const std::string path = svg_path(arguments, "calibration.svg");
  const std::string part = arguments.choice("--split", {"test", "val", "train"});
  const std::string checkpoint = arguments.choice("--checkpoint", {"last", "best"});
  if (!is_run_folder(folder)) {
    throw Error(ErrorKind::kInput, fmt::format("'{}' is no run folder", printable(folder)),
                "give the folder that 'cohort train' printed");
  }
  const std::vector<TrainedNetwork> networks = networks_of_run(folder, checkpoint);
  const Config config = evaluation_config(arguments.config_sources(), networks, folder);
  RunSetup run = make_run(config, [](const std::string& text) { print_warning(text); });
  const Predictions predictions = predict(run, part, placement(config));
  const distill::CohortScores scores =
      distill::score(predictions.logits, predictions.labels, predictions.num_classes);

  std::vector<Calibrated> all;
  for (std::size_t k = 0; k < networks.size(); ++k)
    all.push_back({networks[k].id, networks[k].model, scores.members[k]});
  if (networks.size() > 1) all.push_back({"ens", fmt::format("{} nets", networks.size()), scores.ensemble});
  std::vector<Chart> charts;
  for (const Calibrated& network : all) {
    charts.push_back(reliability_chart(fmt::format("{} ({})", network.id, network.model), network.scores.bins,
                                       network.scores.ece));
  }
  write_charts(path,
               fmt::format("Calibration on {} images of {}, checkpoint {}", part, config.text("data.name"),
                           checkpoint),
               charts);
  if (arguments.has("--json")) {
    print_out(json_text(Json{{"picture", path},
                             {"split", part},
                             {"checkpoint", checkpoint},
                             {"samples", scores.samples},
                             {"nets", calibration_json(all)}}));
  } else {
    print_out(calibration_table(all) + path + "\n");
  }
  return 0;
}

int inspect_teachers(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[1];
  const std::string path = svg_path(arguments, "teachers.svg");
  std::int64_t window = 0;
  if (arguments.has("--window")) {
    const auto steps = parse_int(arguments.value("--window"));
    if (!steps || *steps < 1 || *steps > 1'000'000'000)
      throw Error(ErrorKind::kUsage, "--window: expected a number of steps from 1", "--window 100");
    window = *steps;
  }
  const RunRecords run = read_run(system_file_system(), folder);
  const TeacherTimeline timeline = teacher_timeline(run, window);
  if (timeline.empty()) {
    if (run.steps.empty())
      throw Error(ErrorKind::kInput, fmt::format("'{}' has no records of steps", printable(folder)), "");
    throw Error(ErrorKind::kUsage,
                fmt::format("'{}': its method, {}, does not decide from batch to batch who teaches",
                            printable(folder), text_in(run.start, "method")),
                "runs of competitive and switokd do");
  }
  write_charts(path, fmt::format("Who taught: {}", text_in(run.start, "method")), teacher_charts(timeline));
  if (arguments.has("--json")) {
    Json answer = {{"picture", path}};
    answer.update(timeline_json(timeline));
    print_out(json_text(answer));
  } else {
    print_out(timeline_table(timeline) + path + "\n");
  }
  return 0;
}

}  // namespace cohort::tools
