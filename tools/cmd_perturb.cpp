#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/checksum.h"
#include "core/file_system.h"
#include "kernels/augment.h"
#include "kernels/perturb.h"
#include "tools/commands.h"
#include "tools/contact_sheet.h"
#include "tools/messages.h"
#include "tools/run_setup.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::int64_t kMostSamples = 64;

std::int64_t whole_number(const Arguments& arguments, const char* flag, std::int64_t otherwise,
                          std::int64_t low, std::int64_t high) {
  if (!arguments.has(flag)) return otherwise;
  const auto value = parse_int(arguments.value(flag));
  if (value && *value >= low && *value <= high) return *value;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: expected an integer from {} to {}, not '{}'", flag, low, high,
                          printable(arguments.value(flag))),
              "");
}

// The operations named behind `preview`, or all of them.
std::vector<kernels::PerturbInfo> chosen_operations(const Arguments& arguments) {
  std::vector<kernels::PerturbInfo> chosen;
  std::vector<std::string> names;
  for (const kernels::PerturbInfo& info : kernels::kPerturbInfos) names.emplace_back(info.name);
  for (std::size_t i = 1; i < arguments.positionals.size(); ++i) {
    const auto at = std::find(names.begin(), names.end(), arguments.positionals[i]);
    if (at == names.end()) {
      throw Error(ErrorKind::kUsage,
                  fmt::format("'{}' is no perturbation", printable(arguments.positionals[i])),
                  "choose from " + join(names, ", "));
    }
    chosen.push_back(kernels::kPerturbInfos[at - names.begin()]);
  }
  if (chosen.empty()) chosen.assign(std::begin(kernels::kPerturbInfos), std::end(kernels::kPerturbInfos));
  return chosen;
}

// Normalised images of a training set, as a network sees them, and their perturbed copies.
class Preview {
 public:
  Preview(const ImageSet& set, std::int64_t count, std::int32_t step, std::uint64_t seed,
          kernels::PerturbDomain domain)
      : set_(set), count_(count), step_(step), seed_(seed), domain_(domain) {
    for (std::int64_t i = 0; i < count; ++i)
      indices_.push_back(static_cast<std::int32_t>(i * set.size() / count));
    clean_.resize(static_cast<std::size_t>(count * set.image_bytes()));
    void* const batches[] = {clean_.data()};
    kernels::augment(CpuStream{}, {.images = set.images.data(),
                                   .indices = indices_.data(),
                                   .batches = batches,
                                   .batch_size = count,
                                   .height = set.height,
                                   .width = set.width,
                                   .channels = set.channels,
                                   .options = kernels::kNoAugment,
                                   .normalisation = set.normalisation});
  }

  std::vector<Image> originals() const { return to_images(clean_); }

  // Every sample with its own draw, so that the columns show the range of an operation.
  std::vector<Image> perturbed(kernels::PerturbOp op) const {
    std::vector<float> values(clean_.size());
    void* const batches[] = {values.data()};
    const void* const sources[] = {clean_.data()};
    const auto rows = static_cast<std::size_t>(count_);
    const std::vector<std::int32_t> labels(rows);
    std::vector<std::int32_t> mixed_labels(4 * rows), permutations(3 * rows);
    std::vector<float> weights(4 * rows);
    std::int32_t member = 0, operation = 0;
    kernels::PerturbOptions options = kernels::paper_perturbation(set_.height);
    options.pool[0] = op;
    options.pool_size = 1;
    options.per_sample = true;
    options.domain = domain_;
    const kernels::PerturbArgs args{.batches = batches,
                                    .sources = sources,
                                    .labels = labels.data(),
                                    .step = &step_,
                                    .member = &member,
                                    .operation = &operation,
                                    .mixed_labels = mixed_labels.data(),
                                    .label_weights = weights.data(),
                                    .permutations = permutations.data(),
                                    .batch_size = count_,
                                    .height = set_.height,
                                    .width = set_.width,
                                    .channels = set_.channels,
                                    .seed = seed_,
                                    .options = options,
                                    .normalisation = set_.normalisation};
    std::vector<std::byte> workspace(kernels::perturb_workspace(CpuStream{}, args));
    kernels::perturb(CpuStream{}, args, workspace);
    return to_images(values);
  }

 private:
  std::vector<Image> to_images(const std::vector<float>& values) const {
    std::vector<Image> images;
    const auto bytes = static_cast<std::size_t>(set_.image_bytes());
    for (std::size_t first = 0; first < values.size(); first += bytes) {
      Image image{set_.height, set_.width, set_.channels, std::vector<std::uint8_t>(bytes)};
      for (std::size_t i = 0; i < bytes; ++i) {
        const std::size_t c = i % static_cast<std::size_t>(set_.channels);
        const double pixel =
            static_cast<double>(values[first + i]) * set_.normalisation.std[c] + set_.normalisation.mean[c];
        image.pixels[i] = static_cast<std::uint8_t>(std::lround(255 * std::clamp(pixel, 0.0, 1.0)));
      }
      images.push_back(std::move(image));
    }
    return images;
  }

  const ImageSet& set_;
  std::int64_t count_;
  std::int32_t step_;
  std::uint64_t seed_;
  kernels::PerturbDomain domain_;
  std::vector<std::int32_t> indices_;
  std::vector<float> clean_;
};

int run_perturb(const Arguments& arguments) {
  const std::int64_t count = whole_number(arguments, "--count", 8, 1, kMostSamples);
  const std::int64_t step = whole_number(arguments, "--step", 0, 0, 1'000'000'000);
  const std::string path = arguments.value("--out", "perturbations.svg");
  if (!path.ends_with(".svg")) {
    throw Error(ErrorKind::kUsage, fmt::format("--out: '{}' does not end in .svg", printable(path)),
                "the sheet is an SVG file with the pixels inside");
  }
  const std::vector<kernels::PerturbInfo> operations = chosen_operations(arguments);
  const Config config = resolve_config(arguments.config_sources());
  const data::Dataset data =
      load_data(config, CpuStream{}, [](const std::string& text) { print_warning(text); });
  const bool normalised = config.text("distill.cd.domain") == "normalised";
  const Preview preview(data.train, std::min(count, data.train.size()), static_cast<std::int32_t>(step),
                        static_cast<std::uint64_t>(config.integer("seed")),
                        normalised ? kernels::PerturbDomain::kNormalised : kernels::PerturbDomain::kPixel);
  std::vector<SheetRow> rows = {{"original", "", "what the other networks see", preview.originals()}};
  for (const kernels::PerturbInfo& info : operations) {
    rows.push_back(
        {info.name, info.mixes_labels ? "mixes labels" : "", info.summary, preview.perturbed(info.op)});
  }
  const std::string title = fmt::format("Perturbations of {}, seed {}, step {}", config.text("data.name"),
                                        config.integer("seed"), step);
  durable_replace(system_file_system(), path, as_byte_span(svg_contact_sheet(title, rows)));
  print_out(path + "\n");
  return 0;
}

}  // namespace

CommandSpec perturb_command() {
  CommandSpec spec;
  spec.name = "perturb";
  spec.summary = "a picture of what perturbations do to the images of a data set";
  spec.verbs = {"preview"};
  spec.positionals = "preview [OPERATION...]";
  spec.min_positionals = 1;
  spec.max_positionals = 1 + kernels::kNumPerturbOps;
  spec.examples = {{"cohort perturb preview", "every operation on eight generated images: perturbations.svg"},
                   {"cohort perturb preview cutmix elastic --data cifar10 --data-root data/sets -o talk.svg",
                    "two of them"}};
  for (const FlagSpec& flag : setting_flags()) {
    for (const char* wanted : {"--config", "--set", "--data", "--data-root", "--seed"}) {
      if (flag.name == wanted) spec.flags.push_back(flag);
    }
  }
  const std::vector<FlagSpec> own = {
      {"--count", "", "N", "images, evenly spaced in the training set (8, at most 64)", "Run"},
      {"--step", "", "N", "the training step whose draws are shown (0)", "Run"},
      {"--out", "-o", "FILE", "an .svg file; an existing one is replaced (perturbations.svg)", "Output"}};
  spec.flags.insert(spec.flags.end(), own.begin(), own.end());
  spec.run = run_perturb;
  spec.details =
      "Rows are operations ('cohort list perturbations'), columns images. Strengths are those of the paper "
      "for the\n"
      "images' size; every image has its own draw. Noise and colours work on pixels, or on normalised values "
      "with\n"
      "--set distill.cd.domain=normalised. The same settings give the same file.\n";
  return spec;
}

}  // namespace cohort::tools
