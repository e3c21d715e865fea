#include "tools/inspect_diswot.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "distill/diswot_score.h"
#include "models/registry.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kMostImages = 1024;

struct Candidate {
  std::string name;
  distill::DiswotScore score;
};

std::vector<std::string> names_in(const std::string& text) {
  std::vector<std::string> names;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t comma = std::min(text.find(',', at), text.size());
    names.push_back(text.substr(at, comma - at));
    at = comma + 1;
  }
  return names;
}

ImageSet batch_of(const ImageSet& set, std::int64_t count) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(std::min(count, set.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return set.subset(indices);
}

}  // namespace

std::vector<FlagSpec> diswot_flags() {
  return {{"--teacher", "", "NAME", "of diswot: the model that is to teach", "Run"},
          {"--images", "", "N", "of diswot: training images, one batch (64, at most 1024)", "Run"}};
}

int inspect_diswot(const Arguments& arguments) {
  if (!arguments.has("--teacher")) {
    throw Error(ErrorKind::kUsage, "inspect diswot needs a teacher",
                "cohort inspect diswot resnet8,resnet14 --teacher resnet32");
  }
  const auto count = parse_int(arguments.value("--images", "64"));
  if (!count || *count < 2 || *count > kMostImages)
    throw Error(ErrorKind::kUsage, fmt::format("--images: expected an integer from 2 to {}", kMostImages),
                "");
  const std::string teacher = arguments.value("--teacher");
  const Config config = resolve_config(arguments.config_sources());
  std::vector<Candidate> candidates;
  ImageSet images;
  for (const std::string& name : names_in(arguments.positionals[1])) {
    Context ctx(context_options(config));
    if (images.size() == 0) {
      images = batch_of(
          load_data(config, ctx.cpu_stream(), [](const std::string& text) { print_warning(text); }).train,
          *count);
    }
    candidates.push_back({name, distill::diswot_score(ctx, name, teacher, images)});
  }
  std::stable_sort(candidates.begin(), candidates.end(),
                   [](const Candidate& a, const Candidate& b) { return a.score.score() > b.score.score(); });
  if (arguments.has("--json")) {
    Json rows = Json::array();
    for (const Candidate& c : candidates) {
      rows.push_back({{"student", c.name},
                      {"relation", c.score.relation},
                      {"semantic", c.score.semantic},
                      {"score", c.score.score()}});
    }
    print_out(json_text(Json{{"teacher", teacher}, {"images", images.size()}, {"students", rows}}));
    return 0;
  }
  Table table({{"student"}, {"R", Align::kRight}, {"Sem", Align::kRight}, {"score", Align::kRight}});
  for (const Candidate& c : candidates) {
    table.add({c.name, fmt::format("{:.6f}", c.score.relation), fmt::format("{:.6f}", c.score.semantic),
               fmt::format("{:.6f}", c.score.score())});
  }
  print_out(table.text());
  print_out(
      fmt::format("\nteacher {}, {} images, networks just drawn; the larger the score, the better the "
                  "student suits the teacher\n",
                  teacher, images.size()));
  return 0;
}

}  // namespace cohort::tools
