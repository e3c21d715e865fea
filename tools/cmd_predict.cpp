#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/npz.h"
#include "tools/commands.h"
#include "tools/image_file.h"
#include "tools/messages.h"
#include "tools/run_records.h"
#include "tools/run_setup.h"
#include "tools/table.h"
#include "tools/text.h"
#include "tools/weights_source.h"

namespace cohort::tools {
namespace {

constexpr std::size_t kShown = 3;  // classes per image

std::vector<double> channel_values(const Arguments& arguments, const char* flag, int channels) {
  std::vector<double> values;
  for (const std::string& part : split(arguments.value(flag), ',')) {
    const auto value = parse_float(trim(part));
    if (!value || !std::isfinite(*value)) {
      throw Error(ErrorKind::kUsage, fmt::format("{}: '{}' is no number", flag, printable(part)),
                  "--mean 0.5,0.5,0.5");
    }
    values.push_back(*value);
  }
  if (static_cast<int>(values.size()) != channels) {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: {} numbers for {} channels", flag, values.size(), channels), "");
  }
  return values;
}

// From the run that made the weights, or from --mean and --std.
TrainedOn normalisation_for(const Arguments& arguments, const TrainedNetwork& network) {
  TrainedOn on = trained_on(network.path);
  if (arguments.has("--mean") || arguments.has("--std")) {
    if (!arguments.has("--mean") || !arguments.has("--std")) {
      throw Error(ErrorKind::kUsage, "--mean and --std belong together", "");
    }
    const std::vector<double> mean = channel_values(arguments, "--mean", network.channels);
    const std::vector<double> deviation = channel_values(arguments, "--std", network.channels);
    for (std::size_t c = 0; c < mean.size(); ++c) {
      if (deviation[c] <= 0) throw Error(ErrorKind::kUsage, "--std: a deviation must be above 0", "");
      on.normalisation.mean[c] = mean[c];
      on.normalisation.std[c] = deviation[c];
    }
    on.known = true;
  }
  if (!on.known) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("nothing says how the images of '{}' were normalised", printable(network.path)),
        "give a run folder or a file inside its checkpoints, or --mean 0.49,0.48,0.45 --std 0.2,0.2,0.2");
  }
  return on;
}

// Mean over the networks of softmax(logits), row by row.
std::vector<double> mean_probabilities(const std::vector<std::vector<float>>& logits, int classes) {
  const auto width = static_cast<std::size_t>(classes);
  std::vector<double> mean(logits[0].size(), 0.0);
  for (const std::vector<float>& z : logits) {
    for (std::size_t row = 0; row < z.size(); row += width) {
      const auto begin = z.begin() + static_cast<std::ptrdiff_t>(row);
      const double top = static_cast<double>(*std::max_element(begin, begin + classes));
      double sum = 0;
      for (std::size_t c = 0; c < width; ++c) sum += std::exp(static_cast<double>(z[row + c]) - top);
      for (std::size_t c = 0; c < width; ++c) {
        mean[row + c] +=
            std::exp(static_cast<double>(z[row + c]) - top) / sum / static_cast<double>(logits.size());
      }
    }
  }
  return mean;
}

ImageSet read_images(const std::vector<std::string>& paths, const TrainedNetwork& network,
                     const TrainedOn& on) {
  ImageSet set;
  set.name = "images";
  set.height = network.height;
  set.width = network.width;
  set.channels = network.channels;
  set.num_classes = network.num_classes;
  set.normalisation = on.normalisation;
  for (const std::string& path : paths) {
    const Image image = fit_image(read_image(path, network.channels), network.height, network.width);
    set.images.insert(set.images.end(), image.pixels.begin(), image.pixels.end());
    set.labels.push_back(0);
  }
  return set;
}

std::string class_name(const TrainedOn& on, std::size_t index) {
  return index < on.class_names.size() && !on.class_names[index].empty() ? on.class_names[index]
                                                                         : std::to_string(index);
}

void print_predictions(const std::vector<std::string>& paths, const std::vector<double>& probabilities,
                       int classes, const TrainedOn& on, bool json) {
  Json list = Json::array();
  Table table({{"image"}, {"class"}, {"probability", Align::kRight}, {"next"}});
  for (std::size_t row = 0; row < paths.size(); ++row) {
    const double* p = probabilities.data() + row * static_cast<std::size_t>(classes);
    std::vector<std::size_t> order(static_cast<std::size_t>(classes));
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return p[a] > p[b]; });
    Json top = Json::array();
    std::vector<std::string> next;
    for (std::size_t i = 0; i < std::min(kShown, order.size()); ++i) {
      top.push_back({{"class", order[i]}, {"name", class_name(on, order[i])}, {"probability", p[order[i]]}});
      if (i > 0) next.push_back(fmt::format("{} {:.3f}", class_name(on, order[i]), p[order[i]]));
    }
    table.add({printable(paths[row]), class_name(on, order[0]), fmt::format("{:.3f}", p[order[0]]),
               join(next, ", ")});
    list.push_back({{"image", paths[row]}, {"top", std::move(top)}});
  }
  print_out(json ? json_text(list) : table.text());
}

int run_predict(const Arguments& arguments) {
  const std::string& source = arguments.positionals[0];
  const std::vector<std::string> paths(arguments.positionals.begin() + 1, arguments.positionals.end());
  const std::vector<TrainedNetwork> networks =
      is_run_folder(source)
          ? networks_of_run(source, arguments.value("--checkpoint", "best"))
          : std::vector<TrainedNetwork>{network_of_file(source, "w", arguments.value("--model"))};
  const TrainedOn on = normalisation_for(arguments, networks[0]);
  const ImageSet set = read_images(paths, networks[0], on);

  const Config config = evaluation_config(arguments.config_sources(), networks, "");
  Context ctx(context_options(config));
  distill::Cohort cohort(ctx, member_specs(config), make_method(config), set, cohort_options(config));
  for (std::size_t k = 0; k < networks.size(); ++k) load_member(ctx, cohort.members()[k], networks[k].path);
  std::vector<std::int32_t> indices(paths.size());
  std::iota(indices.begin(), indices.end(), 0);
  const std::vector<std::vector<float>> logits =
      cohort.predict(distill::to_device(ctx, set, placement(config)), indices);
  if (arguments.has("--npy")) {
    const auto rows = static_cast<std::int64_t>(paths.size());
    std::vector<float> all;
    for (const std::vector<float>& z : logits) all.insert(all.end(), z.begin(), z.end());
    const std::vector<std::int64_t> shape = {static_cast<std::int64_t>(logits.size()), rows, set.num_classes};
    durable_replace(system_file_system(), arguments.value("--npy"),
                    serialize_npy({"", DType::f32, shape, all.data()}));
  }
  print_predictions(paths, mean_probabilities(logits, set.num_classes), set.num_classes, on,
                    arguments.has("--json"));
  return 0;
}

}  // namespace

CommandSpec predict_command() {
  CommandSpec spec;
  spec.name = "predict";
  spec.summary = "classes of image files";
  spec.positionals = "RUN or WEIGHTS, then IMAGES...";
  spec.min_positionals = 2;
  spec.max_positionals = 100'000;
  spec.examples = {
      {"cohort predict runs/dml-... cat.png dog.jpg", "the mean probability of the run's networks"},
      {"cohort predict runs/dml-.../checkpoints/best/a.safetensors *.png --json", "one network"}};
  for (const FlagSpec& flag : setting_flags()) {
    if (flag.name == "--device" || flag.name == "--threads" || flag.name == "--precision")
      spec.flags.push_back(flag);
  }
  const std::vector<FlagSpec> own = {
      {"--checkpoint", "", "NAME", "of a run: best or last (default best)", "Run"},
      {"--model", "", "NAME", "of weight files that do not name theirs", "Run"},
      {"--mean", "", "R,G,B", "of the training images in [0, 1]; for weights that come from elsewhere",
       "Run"},
      {"--std", "", "R,G,B", "their standard deviation", "Run"},
      {"--npy", "", "FILE", "logits (networks, images, classes) as float32", "Output"},
      json_flag()};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.details =
      "PNG, JPEG, BMP and PNM. The centre is cropped to the shape of the network's input and resized "
      "(bilinear).\n";
  spec.run = run_predict;
  return spec;
}

}  // namespace cohort::tools
