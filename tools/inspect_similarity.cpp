#include "tools/inspect_similarity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/checkpoint_store.h"
#include "core/checksum.h"
#include "distill/similarity.h"
#include "tools/contact_sheet.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/weights_source.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kMeasured = 512;  // images for the shares
constexpr std::int64_t kMostShown = 64;

struct Color {
  double r, g, b;
};

Color mixed(const Color& a, const Color& b, double t) {
  return {a.r + t * (b.r - a.r), a.g + t * (b.g - a.g), a.b + t * (b.b - a.b)};
}

// -1 blue, 0 white, 1 red: readable without telling red from green.
Color diverging(double value) {
  constexpr Color kLow{33, 102, 172}, kMiddle{247, 247, 247}, kHigh{178, 24, 43};
  const double v = std::clamp(value, -1.0, 1.0);
  return v < 0 ? mixed(kMiddle, kLow, -v) : mixed(kMiddle, kHigh, v);
}

// 0 dark, 1 (the mean) violet, 2 and more yellow.
Color sequential(double weight) {
  constexpr Color kNone{13, 8, 35}, kMean{150, 40, 130}, kMuch{252, 225, 60};
  const double w = std::clamp(weight, 0.0, 2.0);
  return w < 1 ? mixed(kNone, kMean, w) : mixed(kMean, kMuch, w - 1);
}

Image picture(const ImageSet& set, std::int64_t n) {
  Image image{set.height, set.width, 3, {}};
  const std::uint8_t* from = set.image(n);
  for (std::int64_t p = 0; p < std::int64_t{set.height} * set.width; ++p) {
    for (int c = 0; c < 3; ++c)
      image.pixels.push_back(from[p * set.channels + std::min(c, set.channels - 1)]);
  }
  return image;
}

// A map laid over the picture's brightness: the colour says the value, the shape stays visible.
template <class Colors>
Image overlay(const Image& picture, const distill::SimilarityMaps& maps, const std::vector<double>& values,
              std::int64_t n, Colors colors) {
  constexpr double kShareOfColor = 0.65;
  Image image = picture;
  for (int y = 0; y < image.height; ++y) {
    for (int x = 0; x < image.width; ++x) {
      const Color color = colors(values[maps.cell(n, y, x, image.height, image.width)]);
      std::uint8_t* const pixel = &image.pixels[static_cast<std::size_t>((y * image.width + x) * 3)];
      const double gray = 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2];
      const double parts[] = {color.r, color.g, color.b};
      for (int c = 0; c < 3; ++c) {
        pixel[c] =
            static_cast<std::uint8_t>(std::lround(kShareOfColor * parts[c] + (1 - kShareOfColor) * gray));
      }
    }
  }
  return image;
}

ImageSet first_of(const ImageSet& set, std::int64_t count) {
  std::vector<std::int32_t> indices(static_cast<std::size_t>(std::min(count, set.size())));
  std::iota(indices.begin(), indices.end(), 0);
  return set.subset(indices);
}

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

std::string sheet(const ImageSet& shown, const distill::SimilarityMaps& maps, const std::string& title) {
  std::vector<SheetRow> rows;
  const auto cells = static_cast<std::ptrdiff_t>(maps.height * maps.width);
  for (std::int64_t n = 0; n < shown.size(); ++n) {
    const Image image = picture(shown, n);
    const auto label = static_cast<std::size_t>(shown.labels[static_cast<std::size_t>(n)]);
    const auto begin = maps.similarity.begin() + n * cells;
    const double mean = std::accumulate(begin, begin + cells, 0.0) / static_cast<double>(cells);
    rows.push_back(
        {label < shown.class_names.size() ? shown.class_names[label] : fmt::format("class {}", label),
         "",
         fmt::format("mean similarity {:.2f}", mean),
         {image, overlay(image, maps, maps.similarity, n, diverging),
          overlay(image, maps, maps.agreement, n, sequential),
          overlay(image, maps, maps.difference, n, sequential)}});
  }
  return svg_contact_sheet(title, rows, {"picture", "similarity", "agree", "differ"});
}

int index_of(const std::vector<TrainedNetwork>& networks, const std::string& id) {
  for (std::size_t k = 0; k < networks.size(); ++k) {
    if (networks[k].id == id) return static_cast<int>(k);
  }
  std::vector<std::string> ids;
  for (const TrainedNetwork& network : networks) ids.push_back(network.id);
  throw Error(ErrorKind::kUsage, fmt::format("the run has no network '{}'", printable(id)),
              "networks: " + join(ids, ", "));
}

struct Pair {
  int a, b;
};
Pair pair_of(const Arguments& arguments, const std::vector<TrainedNetwork>& networks) {
  if (networks.size() < 2) throw Error(ErrorKind::kUsage, "a run of one network has no pair to compare", "");
  const std::vector<std::string> ids = split(arguments.value("--pair", ""), ',');
  if (!arguments.has("--pair")) return {0, 1};
  if (ids.size() != 2 || ids[0] == ids[1])
    throw Error(ErrorKind::kUsage, "--pair: expected two networks", "--pair a,b");
  return {index_of(networks, ids[0]), index_of(networks, ids[1])};
}

// How similar, and where, at every checkpoint that the run kept.
Json shares_of_checkpoints(const std::string& folder, const std::vector<TrainedNetwork>& networks, Pair pair,
                           RunSetup& run, const ImageSet& measured) {
  const std::string checkpoints = join_path(folder, "checkpoints");
  Json rows = Json::array();
  for (const std::int64_t step :
       CheckpointStore(system_file_system(), checkpoints, CheckpointAccess::kRead).steps()) {
    const std::string at = join_path(checkpoints, fmt::format("step-{:08d}", step));
    for (const int member : {pair.a, pair.b}) {
      const auto k = static_cast<std::size_t>(member);
      load_member(*run.ctx, run.cohort->members()[k], join_path(at, networks[k].id + ".safetensors"));
    }
    const distill::SimilarityMaps maps = distill::similarity_maps(*run.cohort, measured, pair.a, pair.b);
    Json row = {{"step", step}};
    put_number(row, "similarity", mean_of(maps.similarity));
    if (!measured.masks.empty()) {
      put_number(row, "agreement_on_foreground", distill::foreground_share(maps, maps.agreement, measured));
      put_number(row, "difference_on_foreground", distill::foreground_share(maps, maps.difference, measured));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

void print_shares(const Json& rows, double area) {
  const bool masks = area == area;
  std::vector<Table::Column> columns = {{"step", Align::kRight}, {"mean similarity", Align::kRight}};
  if (masks) {
    columns.push_back({"agreement on foreground", Align::kRight});
    columns.push_back({"difference on foreground", Align::kRight});
  }
  Table table(columns);
  for (const Json& row : rows) {
    std::vector<std::string> cells = {std::to_string(row["step"].get<std::int64_t>()),
                                      fmt::format("{:.3f}", number_in(row, "similarity"))};
    if (masks) {
      for (const char* key : {"agreement_on_foreground", "difference_on_foreground"})
        cells.push_back(fmt::format("{:.1f} %", 100 * number_in(row, key)));
    }
    table.add(std::move(cells));
  }
  print_out(table.text());
  if (masks) print_out(fmt::format("The foreground is {:.1f} % of the pixels.\n", 100 * area));
}

}  // namespace

std::vector<FlagSpec> similarity_flags() {
  return {{"--pair", "", "A,B", "of similarity: two networks of the run (the first two)", "Run"},
          {"--count", "", "N", "of similarity: pictures to draw (6, at most 64)", "Run"},
          {"--checkpoint", "", "NAME", "of similarity and calibration: best or last (last)", "Run"},
          {"--out", "-o", "FILE", "of drawings: an .svg file (similarity.svg, ...)", "Output"}};
}

std::string svg_path(const Arguments& arguments, const std::string& otherwise) {
  const std::string path = arguments.value("--out", otherwise);
  if (!path.ends_with(".svg"))
    throw Error(ErrorKind::kUsage, fmt::format("--out: '{}' does not end in .svg", printable(path)), "");
  return path;
}

int inspect_similarity(const Arguments& arguments) {
  const std::string& folder = arguments.positionals[1];
  const std::string path = svg_path(arguments, "similarity.svg");
  const auto count = parse_int(arguments.value("--count", "6"));
  if (!count || *count < 1 || *count > kMostShown) {
    throw Error(ErrorKind::kUsage, fmt::format("--count: expected an integer from 1 to {}", kMostShown), "");
  }
  const std::vector<TrainedNetwork> networks =
      networks_of_run(folder, arguments.value("--checkpoint", "last"));
  const Pair pair = pair_of(arguments, networks);
  RunSetup run = make_run(evaluation_config(arguments.config_sources(), networks, folder),
                          [](const std::string& text) { print_warning(text); });
  if (run.data.test.size() == 0) throw Error(ErrorKind::kInput, "the data set has no test images", "");

  const ImageSet shown = first_of(run.data.test, *count);
  const auto name = [&](int k) {
    const TrainedNetwork& network = networks[static_cast<std::size_t>(k)];
    return fmt::format("{} ({})", network.id, network.model);
  };
  const std::string title = fmt::format("Where {} and {} look alike", name(pair.a), name(pair.b));
  durable_replace(
      system_file_system(), path,
      as_byte_span(sheet(shown, distill::similarity_maps(*run.cohort, shown, pair.a, pair.b), title)));

  const ImageSet measured = first_of(run.data.test, kMeasured);
  const double area =
      measured.masks.empty()
          ? std::nan("")
          : std::accumulate(measured.masks.begin(), measured.masks.end(), 0.0,
                            [](double sum, std::uint8_t m) { return sum + (m != 0 ? 1 : 0); }) /
                static_cast<double>(measured.masks.size());
  const Json rows = shares_of_checkpoints(folder, networks, pair, run, measured);
  if (arguments.has("--json")) {
    Json answer = {{"picture", path}, {"checkpoints", rows}};
    if (!measured.masks.empty()) put_number(answer, "foreground_area", area);
    print_out(json_text(answer));
  } else {
    print_shares(rows, area);
    print_out(path + "\n");
  }
  return 0;
}

}  // namespace cohort::tools
