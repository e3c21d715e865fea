#include "tools/run_setup.h"

#include <fmt/format.h>

#include <map>
#include <numeric>

#include "core/checksum.h"
#include "core/file_system.h"
#include "data/label_noise.h"
#include "data/registry.h"
#include "distill/addition.h"
#include "kernels/devices.h"
#include "models/convolution_check.h"
#include "tools/device_choice.h"
#include "tools/schedule_spec.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

// Of the generated set, when no number is given: an epoch of two resnet20 takes well under a minute on two
// cores.
constexpr std::int64_t kGeneratedTrainImages = 4000;
constexpr std::int64_t kGeneratedTestImages = 1000;
constexpr int kGeneratedSize = 32;
constexpr int kGeneratedClasses = 10;
constexpr std::int64_t kMaxWeightsFile = std::int64_t{16} << 30;

ImageSet first_images(ImageSet set, std::int64_t count) {
  if (count <= 0 || count >= set.size()) return set;
  std::vector<std::int32_t> indices(static_cast<std::size_t>(count));
  std::iota(indices.begin(), indices.end(), 0);
  return set.subset(indices);
}

// What the method's own parser reads.
std::string option_text(const ConfigValue& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return *text;
  return to_toml(value);
}

std::int64_t or_default(std::int64_t value, std::int64_t otherwise) {
  return value > 0 ? value : otherwise;
}

Precision precision_of(const std::string& name) {
  return name == "bf16" ? Precision::kBF16 : name == "tf32" ? Precision::kTF32 : Precision::kF32;
}

// The device that is asked for, or an error that says why it cannot be had.
Device find_device(const DeviceChoice& choice) {
  if (choice.kind == DeviceChoice::Kind::kCpu) return {};
  if constexpr (kHasCuda) {
    if (choice.kind == DeviceChoice::Kind::kAuto && kernels::query_cuda_devices().devices.empty()) return {};
    kernels::check_cuda_device(choice.index);
    return {DeviceKind::kCuda, choice.index};
  }
  if (choice.kind == DeviceChoice::Kind::kAuto) return {};
  throw Error(ErrorKind::kDevice, "this build has no CUDA backend",
              "--device cpu, or build with a CUDA toolkit and -DCOHORT_CUDA=ON");
}

ContextOptions context_options(const Config& config, const Device& device) {
  ContextOptions options;
  options.device = device;
  options.precision = precision_of(config.text("train.precision"));
  if (options.precision == Precision::kTF32 && options.device.kind == DeviceKind::kCpu) {
    throw Error(ErrorKind::kUsage,
                "train.precision: tf32 is a format of GPUs, and this run computes on the CPU",
                "--precision f32 or bf16, or --device cuda");
  }
  options.graph = config.flag("graph");
  options.num_threads = static_cast<int>(config.integer("threads"));
  options.num_branches = static_cast<int>(config.networks().size());
  options.seed = static_cast<std::uint64_t>(config.integer("seed"));
  return options;
}

}  // namespace

ContextOptions context_options(const Config& config) {
  return context_options(config, find_device(*parse_device(config.text("device"))));
}

nn::Schedule make_schedule(const Config& config) {
  const ParsedSchedule parsed = parse_schedule(config.text("optim.schedule"));
  check(parsed.problem.empty(), "schedule: not checked before");
  nn::Schedule schedule;
  schedule.warmup_epochs = config.number("optim.warmup_epochs");
  switch (parsed.spec.kind) {
    case ScheduleSpec::Kind::kConstant:
      break;
    case ScheduleSpec::Kind::kCosine:
      schedule.kind = nn::ScheduleKind::kCosine;
      break;
    case ScheduleSpec::Kind::kStep:
      schedule.kind = nn::ScheduleKind::kStep;
      schedule.milestones = parsed.spec.epochs;
      schedule.factor = parsed.spec.factor;
      break;
    case ScheduleSpec::Kind::kEvery:
      schedule.kind = nn::ScheduleKind::kStep;
      for (std::int64_t e = parsed.spec.epochs[0]; e < config.integer("train.epochs");
           e += parsed.spec.epochs[0]) {
        schedule.milestones.push_back(static_cast<int>(e));
      }
      schedule.factor = parsed.spec.factor;
      break;
  }
  return schedule;
}

std::unique_ptr<distill::Method> make_method(const Config& config) {
  const auto options_of = [&](const std::vector<distill::OptionSpec>& specs) {
    distill::MethodOptions options(specs);
    for (const distill::OptionSpec& spec : specs)
      options.set(spec.key, option_text(config.value("distill." + spec.key)));
    return options;
  };
  const distill::MethodInfo& info = distill::find_method(config.text("method"));
  std::unique_ptr<distill::Method> method = info.make(options_of(info.options));
  if (config.text("add") == "none") return method;
  const distill::AdditionInfo& addition = distill::find_addition(config.text("add"));
  return addition.add(std::move(method), options_of(addition.options));
}

std::string method_label(const Config& config) {
  const std::string& add = config.text("add");
  return config.text("method") + (add == "none" ? "" : "+" + add);
}

std::vector<distill::MemberSpec> member_specs(const Config& config) {
  std::vector<distill::MemberSpec> specs;
  for (const NetworkSettings& network : config.networks()) {
    specs.push_back(
        {.id = network.id,
         .model = network.model,
         .learning_rate = network.number("optim.lr", config.number("optim.lr")),
         .weight_decay = network.number("optim.weight_decay", config.number("optim.weight_decay"))});
  }
  return specs;
}

distill::CohortOptions cohort_options(const Config& config) {
  distill::CohortOptions options;
  options.sgd.momentum = config.number("optim.momentum");
  options.sgd.nesterov = config.flag("optim.nesterov");
  if (config.text("data.augment") == "none") options.augment = kernels::kNoAugment;
  options.augment.cutout = static_cast<int>(config.integer("data.cutout"));
  options.independent_augmentation = config.flag("distill.icl");
  return options;
}

distill::Placement placement(const Config& config) {
  const std::string& residency = config.text("data.residency");
  return {.residency = residency == "auto"     ? distill::Residency::kAuto
                       : residency == "device" ? distill::Residency::kDevice
                                               : distill::Residency::kHost};
}

distill::TrainerOptions trainer_options(const Config& config) {
  distill::TrainerOptions options;
  options.epochs = static_cast<int>(config.integer("train.epochs"));
  options.batch_size = static_cast<int>(config.integer("train.batch_size"));
  options.shuffle = config.flag("data.shuffle");
  options.schedule = make_schedule(config);
  const std::string& nan = config.text("train.nan");
  options.nan = nan == "stop"   ? distill::NanPolicy::kStop
                : nan == "skip" ? distill::NanPolicy::kSkip
                                : distill::NanPolicy::kIgnore;
  options.max_steps = config.integer("train.max_steps");
  options.placement = placement(config);
  return options;
}

data::Dataset load_data(const Config& config, CpuStream stream, const data::Warn& warn) {
  const std::string& name = config.text("data.name");
  data::DatasetOptions options;
  for (const data::DatasetEntry& entry : data::dataset_entries()) {
    if (entry.name == name && entry.needs_files && config.text("data.root").empty()) {
      throw Error(ErrorKind::kUsage, fmt::format("the data set {} needs the folder of its files", name),
                  "--data-root DIR; --data shapes needs no files");
    }
  }
  options.root = config.text("data.root");
  options.coarse_labels = config.flag("data.coarse_labels");
  options.allow_partial = config.flag("data.allow_partial");
  options.warn = warn;
  options.train_size = or_default(config.integer("data.train_images"), kGeneratedTrainImages);
  options.test_size = or_default(config.integer("data.test_images"), kGeneratedTestImages);
  options.image_size = static_cast<int>(or_default(config.integer("data.size"), kGeneratedSize));
  options.num_classes = static_cast<int>(or_default(config.integer("data.classes"), kGeneratedClasses));
  options.seed = static_cast<std::uint64_t>(config.integer("seed"));
  data::Dataset data = data::load_dataset(stream, name, options);
  data.train = first_images(std::move(data.train), config.integer("data.train_images"));
  data.test = first_images(std::move(data.test), config.integer("data.test_images"));
  data.train.check_usable();
  const std::int64_t classes = config.integer("data.classes");
  if (classes > 0 && classes != data.train.num_classes) {
    throw Error(
        ErrorKind::kUsage,
        fmt::format("data.classes = {}, but {} has {} classes", classes, name, data.train.num_classes),
        "leave data.classes at 0");
  }
  return data;
}

distill::TrainerData RunSetup::trainer_data() const {
  distill::TrainerData result;
  result.train = &data.train;
  result.train_indices = split.train;
  result.held_out_indices = split.held_out;
  result.test = data.test.size() > 0 ? &data.test : nullptr;
  return result;
}

void warn_of_slow_convolutions(const RunSetup& run, std::int64_t batch, const data::Warn& warn) {
#ifdef __x86_64__
  for (const distill::Cohort::Member& member : run.cohort->members()) {
    for (const models::SlowConvolution& slow :
         models::slow_convolutions(*run.ctx, member.layers, batch, run.ctx->activation_dtype())) {
      const kernels::Conv2dShape& s = slow.shape;
      warn(
          fmt::format("network '{}' ({}): {} of {} ({}x{} convolution of {} to {} channels, stride {}, "
                      "{}x{}) runs as '{}', "
                      "a slow path that may take several times as long",
                      member.spec.id, member.spec.model, models::name_of(slow.pass), slow.layer, s.kh, s.kw,
                      s.c, s.k, s.stride, s.h, s.w, slow.implementation));
    }
  }
#else
  (void)run, (void)batch, (void)warn;
#endif
}

void load_member(Context& ctx, distill::Cohort::Member& member, const std::string& path) {
  const std::vector<std::byte> bytes =
      read_file(system_file_system(), path, kMaxWeightsFile, ErrorKind::kInput);
  member.batches_tracked = distill::load_weights(ctx, *member.network, bytes, path);
}

namespace {

void load_first_weights(const Config& config, RunSetup& run, const data::Warn& warn) {
  std::map<std::string, std::string> seen;  // model and file -> id
  for (std::size_t k = 0; k < config.networks().size(); ++k) {
    const NetworkSettings& network = config.networks()[k];
    distill::Cohort::Member& member = run.cohort->members()[k];
    if (network.init.empty()) {
      if (member.frozen) {
        throw Error(ErrorKind::kUsage,
                    fmt::format("network '{}' is the frozen teacher of {}, but has no weights", network.id,
                                config.text("method")),
                    fmt::format("--init {}=FILE.safetensors", network.id));
      }
      continue;
    }
    load_member(*run.ctx, member, network.init);
    const auto [it, fresh] = seen.emplace(network.model + "\n" + network.init, network.id);
    if (!fresh && !member.frozen && !config.flag("distill.icl")) {
      warn(fmt::format(
          "networks '{}' and '{}' start from the same weights: they see the same images and may never "
          "differ",
          it->second, network.id));
    }
  }
}

RunSetup make_run(const Config& config, const data::Warn& warn, const ContextOptions& options) {
  RunSetup run;
  std::unique_ptr<distill::Method> method = make_method(config);
  method->check_members(static_cast<int>(config.networks().size()));
  run.formula = method->formula(static_cast<int>(config.networks().size()));
  run.ctx = std::make_unique<Context>(options);
  run.data = load_data(config, run.ctx->cpu_stream(), warn);
  const std::uint64_t parts[2] = {run.data.train.fingerprint(), run.data.test.fingerprint()};
  run.fingerprint = xxh3_64(parts, sizeof(parts));
  run.split = data::stratified_split(run.data.train.labels, run.data.train.num_classes,
                                     config.number("data.val_fraction"),
                                     static_cast<std::uint64_t>(config.integer("seed")));
  run.wrong_labels =
      data::add_label_noise(run.data.train.labels, run.split.train, run.data.train.num_classes,
                            {.share = config.number("data.label_noise"),
                             .exclude_true = config.flag("data.label_noise_exclude_true"),
                             .seed = static_cast<std::uint64_t>(config.integer("data.label_noise_seed"))});
  run.cohort = std::make_unique<distill::Cohort>(*run.ctx, member_specs(config), std::move(method),
                                                 run.data.train, cohort_options(config));
  return run;
}

}  // namespace

RunSetup make_run(const Config& config, const data::Warn& warn, FirstWeights weights) {
  RunSetup run = make_run(config, warn, context_options(config));
  if (weights == FirstWeights::kRead) load_first_weights(config, run, warn);
  return run;
}

RunSetup make_rehearsal(const Config& config, const data::Warn& warn) {
  if (!kHasCuda) {
    throw Error(ErrorKind::kDevice, "this build has no CUDA backend, whose steps are what could be counted",
                "build with a CUDA toolkit and -DCOHORT_CUDA=ON; no GPU is needed");
  }
  if (parse_device(config.text("device"))->kind == DeviceChoice::Kind::kCpu) {
    throw Error(ErrorKind::kUsage, "the steps that are counted are those of a GPU, not of device cpu",
                "leave --device out; no GPU is needed");
  }
  ContextOptions options = context_options(config, {DeviceKind::kCuda, 0});
  options.graph = true;
  options.rehearse = true;
  return make_run(config, warn, options);
}

}  // namespace cohort::tools
