#include <fmt/format.h>

#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/predictions.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/weights_source.h"

namespace cohort::tools {
namespace {

Json scores_row(const std::string& id, const std::string& model, const distill::Scores& scores) {
  Json row = {{"id", id}, {"model", model}};
  put_number(row, "top1", scores.top1);
  put_number(row, "top5", scores.top5);
  put_number(row, "loss", scores.loss);
  put_number(row, "ece", scores.ece);
  return row;
}

Json per_class(const Predictions& predictions, std::size_t member) {
  std::vector<std::int64_t> right(static_cast<std::size_t>(predictions.num_classes));
  std::vector<std::int64_t> total(right.size());
  for (std::size_t row = 0; row < predictions.labels.size(); ++row) {
    const auto label = static_cast<std::size_t>(predictions.labels[row]);
    ++total[label];
    right[label] += predictions.predicted(member, row) == predictions.labels[row] ? 1 : 0;
  }
  Json list = Json::array();
  for (std::size_t c = 0; c < total.size(); ++c) {
    list.push_back(total[c] == 0 ? Json()
                                 : Json(static_cast<double>(right[c]) / static_cast<double>(total[c])));
  }
  return list;
}

Json pairwise_agreement(const Predictions& predictions) {
  Json matrix = Json::array();
  for (std::size_t i = 0; i < predictions.logits.size(); ++i) {
    Json row = Json::array();
    for (std::size_t j = 0; j < predictions.logits.size(); ++j) {
      std::int64_t same = 0;
      for (std::size_t r = 0; r < predictions.labels.size(); ++r) {
        same += predictions.predicted(i, r) == predictions.predicted(j, r) ? 1 : 0;
      }
      row.push_back(static_cast<double>(same) / static_cast<double>(predictions.labels.size()));
    }
    matrix.push_back(std::move(row));
  }
  return matrix;
}

int run_eval(const Arguments& arguments) {
  const std::string part = arguments.choice("--split", {"test", "val", "train"});
  const std::string checkpoint = arguments.choice("--checkpoint", {"best", "last"});
  const bool of_run = is_run_folder(arguments.positionals[0]);
  std::vector<TrainedNetwork> networks;
  if (of_run) {
    if (arguments.positionals.size() > 1) {
      throw Error(ErrorKind::kUsage, "one run at a time, or weight files", "cohort eval RUN");
    }
    networks = networks_of_run(arguments.positionals[0], checkpoint);
  } else {
    for (std::size_t i = 0; i < arguments.positionals.size(); ++i) {
      networks.push_back(
          network_of_file(arguments.positionals[i], fmt::format("w{}", i), arguments.value("--model")));
    }
  }
  const Config config =
      evaluation_config(arguments.config_sources(), networks, of_run ? arguments.positionals[0] : "");
  RunSetup run = make_run(config, [](const std::string&) {});
  const Predictions predictions = predict(run, part, placement(config));
  const distill::CohortScores scores =
      distill::score(predictions.logits, predictions.labels, predictions.num_classes);

  Json answer = {{"split", part},
                 {"data", config.text("data.name")},
                 {"samples", scores.samples},
                 {"nets", Json::array()}};
  for (std::size_t k = 0; k < networks.size(); ++k) {
    Json row = scores_row(networks[k].id, networks[k].model, scores.members[k]);
    row["weights"] = networks[k].path;
    row["per_class"] = per_class(predictions, k);
    answer["nets"].push_back(std::move(row));
  }
  if (networks.size() > 1) {
    answer["nets"].push_back(scores_row("ens", fmt::format("{} nets", networks.size()), scores.ensemble));
    put_number(answer, "agreement", scores.agreement);
    answer["pairwise_agreement"] = pairwise_agreement(predictions);
  }
  if (arguments.has("--json")) {
    print_out(json_text(answer));
    return 0;
  }
  Table table({{"net"},
               {"model"},
               {"top1", Align::kRight},
               {"top5", Align::kRight},
               {"loss", Align::kRight},
               {"ECE", Align::kRight}});
  for (const Json& row : answer["nets"]) {
    table.add({text_in(row, "id"), text_in(row, "model"), fmt::format("{:.2f}", 100 * number_in(row, "top1")),
               fmt::format("{:.2f}", 100 * number_in(row, "top5")),
               fmt::format("{:.4f}", number_in(row, "loss")), fmt::format("{:.3f}", number_in(row, "ece"))});
  }
  print_out(
      fmt::format("{} {} images of {}\n{}", scores.samples, part, config.text("data.name"), table.text()));
  if (networks.size() > 1)
    print_out(fmt::format("all agree on {:.1f}% of the images\n", 100 * scores.agreement));
  return 0;
}

}  // namespace

CommandSpec eval_command() {
  CommandSpec spec;
  spec.name = "eval";
  spec.summary = "accuracy, calibration and agreement of trained networks";
  spec.positionals = "RUN or WEIGHTS...";
  spec.min_positionals = 1;
  spec.max_positionals = kMaxNetworks;
  spec.examples = {
      {"cohort eval runs/dml-... --split test --json", "every network of a run, and their ensemble"},
      {"cohort eval a.safetensors b.safetensors --data cifar100 --data-root data/cifar100", "weight files"}};
  for (const FlagSpec& flag : setting_flags()) {
    for (const char* wanted :
         {"--config", "--set", "--device", "--threads", "--data", "--data-root", "--precision", "--seed"}) {
      if (flag.name == wanted) spec.flags.push_back(flag);
    }
  }
  const std::vector<FlagSpec> own = {
      {"--split", "", "PART", "test, val or train (default test)", "Run"},
      {"--checkpoint", "", "NAME", "of a run: best or last (default best)", "Run"},
      {"--model", "", "NAME", "of weight files that do not name theirs", "Run"},
      json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.run = run_eval;
  return spec;
}

}  // namespace cohort::tools
