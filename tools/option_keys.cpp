#include "tools/option_keys.h"

#include "tools/device_choice.h"
#include "tools/presets.h"
#include "tools/schedule_spec.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr double kMaxSeed = 9.2e18;  // the whole range of a 64-bit integer; the reader refuses what is larger

std::string device_problem(const ConfigValue& value) {
  return parse_device(std::get<std::string>(value)) ? "" : "expected auto, cpu, cuda or cuda:N";
}

std::string schedule_problem(const ConfigValue& value) {
  return parse_schedule(std::get<std::string>(value)).problem;
}

std::vector<std::string> preset_names_and_none() {
  std::vector<std::string> names = {""};
  for (const Preset& preset : presets()) names.push_back(preset.name);
  return names;
}

std::vector<std::string> names_and_none(const std::vector<NamedEntry>& entries) {
  std::vector<std::string> names = names_of(entries);
  names.insert(names.begin(), "none");
  return names;
}

std::vector<OptionKey> run_keys() {
  return {
      {.path = "schema",
       .type = KeyType::kInt,
       .default_value = std::int64_t{1},
       .min = 1,
       .max = 1,
       .help = "version of this file's layout"},
      {.path = "preset",
       .type = KeyType::kChoice,
       .default_value = std::string(),
       .choices = preset_names_and_none(),
       .help = "published recipe to start from",
       .flag = "--preset",
       .metavar = "NAME"},
      {.path = "method",
       .type = KeyType::kChoice,
       .default_value = std::string("dml"),
       .choices = names_of(method_entries()),
       .help = "who teaches whom",
       .flag = "--method",
       .metavar = "NAME"},
      {.path = "fidelity",
       .type = KeyType::kText,
       .default_value = std::string(),
       .help = "the method's variant of one source, under all that is set besides (cohort list fidelities)",
       .flag = "--fidelity",
       .metavar = "NAME"},
      {.path = "add",
       .type = KeyType::kChoice,
       .default_value = std::string("none"),
       .choices = names_and_none(addition_entries()),
       .help = "terms that join the method's losses",
       .flag = "--add",
       .metavar = "NAME"},
      {.path = "device",
       .type = KeyType::kText,
       .default_value = std::string("auto"),
       .help =
           "where to compute: cpu, cuda, cuda:N (the N-th GPU, from 0), or auto, a GPU where there is one",
       .flag = "--device",
       .metavar = "NAME",
       .problem = device_problem},
      {.path = "graph",
       .type = KeyType::kBool,
       .default_value = true,
       .help = "CUDA: start every kernel of every step anew instead of replaying a captured graph",
       .flag = "--no-graph"},
      {.path = "threads",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1024,
       .help = "CPU threads; 0: all cores; the results do not depend on it",
       .flag = "--threads",
       .metavar = "N"},
      {.path = "seed",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = kMaxSeed,
       .help = "start of every random draw",
       .flag = "--seed",
       .metavar = "N"},
  };
}

std::vector<OptionKey> data_keys() {
  return {
      {.path = "data.name",
       .type = KeyType::kChoice,
       .default_value = std::string("shapes"),
       .choices = names_of(dataset_entries()),
       .help = "data set; shapes is generated, nothing to download",
       .flag = "--data",
       .metavar = "NAME"},
      {.path = "data.root",
       .type = KeyType::kPath,
       .default_value = std::string(),
       .help = "folder that holds the data set",
       .flag = "--data-root",
       .metavar = "DIR"},
      {.path = "data.classes",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 100000,
       .help = "number of classes; 0: what the data set has"},
      {.path = "data.size",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1024,
       .help = "height and width of generated images; 0: the set's own"},
      {.path = "data.train_images",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1e9,
       .help = "use only the first N training images; 0: all"},
      {.path = "data.test_images",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1e9,
       .help = "use only the first N test images; 0: all"},
      {.path = "data.val_fraction",
       .type = KeyType::kFloat,
       .default_value = 0.1,
       .min = 0,
       .max = 1,
       .below_max = true,
       .help = "share of the training images held out for validation",
       .flag = "--val-fraction",
       .metavar = "X"},
      {.path = "data.augment",
       .type = KeyType::kChoice,
       .default_value = std::string("standard"),
       .choices = {"standard", "none"},
       .help = "standard: pad by 4, random crop, horizontal flip"},
      {.path = "data.cutout",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1024,
       .help =
           "side of one square per training image that is set to the mean colour (8 for CIFAR-100); 0: none"},
      {.path = "data.label_noise",
       .type = KeyType::kFloat,
       .default_value = 0.0,
       .min = 0,
       .max = 1,
       .help = "share of the training labels that is drawn anew, once"},
      {.path = "data.label_noise_exclude_true",
       .type = KeyType::kBool,
       .default_value = false,
       .help = "a label that is drawn anew is never the old one"},
      {.path = "data.label_noise_seed",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .help = "of those draws: apart from seed, so that runs can share their wrong labels"},
      {.path = "data.shuffle",
       .type = KeyType::kBool,
       .default_value = true,
       .help = "new order in every epoch"},
      {.path = "data.coarse_labels",
       .type = KeyType::kBool,
       .default_value = false,
       .help = "CIFAR-100: the 20 super-classes"},
      {.path = "data.residency",
       .type = KeyType::kChoice,
       .default_value = std::string("auto"),
       .choices = {"auto", "device", "host"},
       .help =
           "CUDA: where the images lie; auto: on the device if they take at most half of its free memory"},
      {.path = "data.allow_partial",
       .type = KeyType::kBool,
       .default_value = false,
       .help = "accept a data set with missing files or records"},
  };
}

std::vector<OptionKey> train_keys() {
  return {
      {.path = "train.epochs",
       .type = KeyType::kInt,
       .default_value = std::int64_t{10},
       .min = 1,
       .max = 1e6,
       .help = "passes over the training images (papers use 200 to 300 for CIFAR)",
       .flag = "--epochs",
       .metavar = "N"},
      {.path = "train.batch_size",
       .type = KeyType::kInt,
       .default_value = std::int64_t{128},
       .min = 1,
       .max = 65536,
       .help = "images per step (per network and step with dml.update=new-batch)",
       .flag = "--batch-size",
       .metavar = "N",
       .alias = "--batch"},
      {.path = "train.max_steps",
       .type = KeyType::kInt,
       .default_value = std::int64_t{0},
       .min = 0,
       .max = 1e15,
       .help = "stop after N steps; 0: no limit",
       .flag = "--max-steps",
       .metavar = "N"},
      {.path = "train.precision",
       .type = KeyType::kChoice,
       .default_value = std::string("f32"),
       .choices = {"f32", "tf32", "bf16"},
       .help = "of activations and weights in use, tf32: of products on a GPU; master weights stay f32",
       .flag = "--precision",
       .metavar = "NAME"},
      {.path = "train.time_limit",
       .type = KeyType::kFloat,
       .default_value = 0.0,
       .min = 0,
       .max = 1e9,
       .help = "seconds after which to save and exit with 75; 0: none",
       .flag = "--time-limit",
       .metavar = "S"},
      {.path = "train.nan",
       .type = KeyType::kChoice,
       .default_value = std::string("stop"),
       .choices = {"stop", "skip", "ignore"},
       .help = "what to do when a loss is not finite",
       .flag = "--nan",
       .metavar = "WHAT"},
      {.path = "train.save_every",
       .type = KeyType::kInt,
       .default_value = std::int64_t{1},
       .min = 0,
       .max = 1e6,
       .help = "epochs between checkpoints; 0: only at the end",
       .flag = "--save-every",
       .metavar = "N"},
      {.path = "train.keep",
       .type = KeyType::kInt,
       .default_value = std::int64_t{3},
       .min = 2,
       .max = 1e6,
       .help = "checkpoints kept besides the best",
       .flag = "--keep",
       .metavar = "N"},
  };
}

std::vector<OptionKey> optim_keys() {
  return {
      {.path = "optim.lr",
       .type = KeyType::kFloat,
       .default_value = 0.1,
       .min = 0,
       .max = 100,
       .help = "learning rate of SGD",
       .flag = "--lr",
       .metavar = "X"},
      {.path = "optim.momentum",
       .type = KeyType::kFloat,
       .default_value = 0.9,
       .min = 0,
       .max = 1,
       .below_max = true,
       .help = "momentum",
       .flag = "--momentum",
       .metavar = "X"},
      {.path = "optim.nesterov", .type = KeyType::kBool, .default_value = false, .help = "Nesterov momentum"},
      {.path = "optim.weight_decay",
       .type = KeyType::kFloat,
       .default_value = 5e-4,
       .min = 0,
       .max = 1,
       .help = "L2 penalty on every parameter",
       .flag = "--weight-decay",
       .metavar = "X"},
      {.path = "optim.schedule",
       .type = KeyType::kText,
       .default_value = std::string("cosine"),
       .help = "constant, step:100,150:0.1, every:60:0.1 or cosine",
       .flag = "--schedule",
       .metavar = "SPEC",
       .problem = schedule_problem},
      {.path = "optim.warmup_epochs",
       .type = KeyType::kFloat,
       .default_value = 0.0,
       .min = 0,
       .max = 1e4,
       .help = "epochs over which the rate rises linearly from 0"},
  };
}

std::vector<OptionKey> log_keys() {
  return {
      {.path = "log.every_steps",
       .type = KeyType::kInt,
       .default_value = std::int64_t{1},
       .min = 1,
       .max = 1e9,
       .help = "steps between records in metrics.jsonl",
       .flag = "--log-every",
       .metavar = "N"},
      {.path = "log.progress",
       .type = KeyType::kChoice,
       .default_value = std::string("auto"),
       .choices = {"auto", "bar", "line", "json", "none"},
       .help = "what to show on stderr while training",
       .flag = "--progress",
       .metavar = "HOW"},
      {.path = "log.color",
       .type = KeyType::kChoice,
       .default_value = std::string("auto"),
       .choices = {"auto", "always", "never"},
       .help = "colour of messages",
       .flag = "--color",
       .metavar = "WHEN"},
  };
}

}  // namespace

std::vector<OptionKey> common_keys() {
  std::vector<OptionKey> keys;
  for (auto& part : {run_keys(), data_keys(), train_keys(), optim_keys(), log_keys()}) {
    keys.insert(keys.end(), part.begin(), part.end());
  }
  return keys;
}

std::vector<OptionKey> network_keys() {
  return {
      {.path = "id",
       .type = KeyType::kText,
       .default_value = std::string(),
       .help = "short name; a, b, ... when left out"},
      {.path = "model",
       .type = KeyType::kText,
       .default_value = std::string("resnet20"),
       .help = "architecture (cohort list models)"},
      {.path = "init",
       .type = KeyType::kPath,
       .default_value = std::string(),
       .help = "weights to start from (.safetensors)"},
      {.path = "optim.lr",
       .type = KeyType::kFloat,
       .default_value = 0.1,
       .min = 0,
       .max = 100,
       .help = "learning rate of this network"},
      {.path = "optim.weight_decay",
       .type = KeyType::kFloat,
       .default_value = 5e-4,
       .min = 0,
       .max = 1,
       .help = "weight decay of this network"},
  };
}

std::vector<std::string> names_of(const std::vector<NamedEntry>& entries) {
  std::vector<std::string> names;
  for (const NamedEntry& entry : entries) names.push_back(entry.name);
  return names;
}

const OptionTable& option_table() {
  static const OptionTable table = [] {
    std::vector<OptionKey> keys = common_keys();
    for (OptionKey& key : method_keys()) keys.push_back(std::move(key));
    return OptionTable(std::move(keys));
  }();
  return table;
}

const OptionTable& network_table() {
  static const OptionTable table(network_keys());
  return table;
}

}  // namespace cohort::tools
