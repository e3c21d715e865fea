#include "tools/args.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <map>

#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

constexpr std::size_t kHelpColumn = 30;
constexpr std::size_t kHelpWidth = 110;

// CLI11 does the parsing, the messages are ours: they list every mistake and name the nearest flag. What it
// cannot place (operands, unknown options) lies in missing_, in order and with its kind.
struct Line : CLI::App {
  using CLI::App::missing_;
};

class Parser {
 public:
  explicit Parser(const CommandSpec& command) : command_(command) {
    arguments_.command = &command;
    line_.allow_extras();
    line_.set_help_flag();  // the caller looks for --help first
    for (const FlagSpec& flag : command.flags) {
      std::string names = flag.name;
      if (!flag.short_name.empty()) names += "," + flag.short_name;
      if (!flag.alias.empty()) names += "," + flag.alias;
      CLI::Option* option = takes_word(flag) ? line_.add_option(names) : line_.add_flag(names);
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
      specs_[option] = &flag;
    }
  }

  Arguments parse(const std::vector<std::string>& words) {
    std::vector<std::string> args = separate_values(words);
    const std::string last = args.empty() ? "" : args.back();
    std::reverse(args.begin(), args.end());  // as CLI11 wants it
    try {
      line_.parse(std::move(args));
    } catch (const CLI::ParseError& error) {
      if (find(last) != nullptr) {  // nothing behind the last option
        needs_value(last);
      } else {
        problem(error.what());
      }
    }
    read_options();
    read_others();
    if (problems_.empty()) check_positionals();
    if (!problems_.empty()) throw UsageErrors(std::move(problems_));
    return std::move(arguments_);
  }

 private:
  static bool takes_word(const FlagSpec& flag) { return !flag.metavar.empty() && !flag.optional_value; }

  const FlagSpec* find(const std::string& word) const {
    const CLI::Option* option = line_.get_option_no_throw(word.substr(0, word.find('=')));
    return option == nullptr ? nullptr : specs_.at(option);
  }

  // "--out=" is an empty value, for which CLI11 would take the next word instead.
  std::vector<std::string> separate_values(const std::vector<std::string>& words) const {
    std::vector<std::string> args;
    for (auto word = words.begin(); word != words.end(); ++word) {
      if (*word == "--") {
        args.insert(args.end(), word, words.end());
        break;
      }
      const std::size_t equals = word->find('=');
      const bool option = word->compare(0, 1, "-") == 0;
      const FlagSpec* flag = option && equals != std::string::npos ? find(*word) : nullptr;
      if (flag != nullptr && takes_word(*flag)) {
        args.push_back(word->substr(0, equals));
        args.push_back(word->substr(equals + 1));
      } else {
        args.push_back(*word);
      }
    }
    return args;
  }

  void problem(std::string headline, std::string help = {}) {
    if (help.empty()) help = fmt::format("'cohort {} --help' lists the options", command_.name);
    problems_.push_back(error_block(std::move(headline), std::move(help)));
  }
  void needs_value(const std::string& name) {
    problem(fmt::format("{} needs a value ({})", name, find(name)->metavar));
  }

  void read_options() {
    std::map<const CLI::Option*, std::size_t> seen;
    for (const CLI::Option* option : line_.parse_order()) {
      const FlagSpec& flag = *specs_.at(option);
      std::string value = option->results()[seen[option]++];
      if (!takes_word(flag)) {
        if (value == "true") value.clear();  // CLI11's word for a flag that stands alone
        if (flag.metavar.empty() && !value.empty()) problem(fmt::format("{} takes no value", flag.name));
      } else if (value.compare(0, 1, "-") == 0 && find(value) != nullptr) {
        // "--out --epochs 3": a flag in the place of a value was surely not meant as one.
        needs_value(flag.name);
      }
      arguments_.uses.push_back({flag.name, std::move(value)});
    }
  }

  void read_others() {
    using Kind = CLI::detail::Classifier;
    const auto& others = line_.missing_;
    for (std::size_t i = 0; i < others.size(); ++i) {
      const auto& [kind, word] = others[i];
      if (kind == Kind::NONE) {
        arguments_.positionals.push_back(word);
      } else if (kind != Kind::POSITIONAL_MARK) {
        unknown(word.substr(0, word.find('=')));
      }
    }
  }

  void unknown(const std::string& name) {
    std::vector<std::string> names = {"--help"};
    for (const FlagSpec& flag : command_.flags) names.push_back(flag.name);
    std::string suggestion = did_you_mean(name, names);
    if (suggestion.empty()) {  // --nesterov is near a key of --set
      std::string path = name.substr(std::min<std::size_t>(2, name.size()));
      std::replace(path.begin(), path.end(), '-', '_');
      const bool takes_settings = find("--set") != nullptr;
      const std::string key = takes_settings ? option_table().suggest(path) : "";
      if (!key.empty()) suggestion = fmt::format("did you mean --set {}=...?", key);
    }
    problem(
        fmt::format("unknown option '{}'{}{}", printable(name), suggestion.empty() ? "" : "; ", suggestion));
  }

  // Only on a line without other mistakes: the value of an unknown option looks like an operand.
  void check_positionals() {
    const int count = static_cast<int>(arguments_.positionals.size());
    if (count > 0 && !command_.verbs.empty()) {
      const std::string& verb = arguments_.positionals[0];
      if (std::find(command_.verbs.begin(), command_.verbs.end(), verb) == command_.verbs.end()) {
        const std::string suggestion = did_you_mean(verb, command_.verbs);
        problem(fmt::format("'cohort {}' knows no '{}'{}{}", command_.name, printable(verb),
                            suggestion.empty() ? "" : "; ", suggestion),
                fmt::format("one of {}", join(command_.verbs, ", ")));
      }
    }
    if (count < command_.min_positionals) {
      problem(fmt::format("'cohort {}' needs {}", command_.name, command_.positionals));
    } else if (count > command_.max_positionals) {
      const std::string& extra = arguments_.positionals[static_cast<std::size_t>(command_.max_positionals)];
      problem(fmt::format("unexpected argument '{}'", printable(extra)));
    }
  }

  const CommandSpec& command_;
  Line line_;
  std::map<const CLI::Option*, const FlagSpec*> specs_;
  Arguments arguments_;
  std::vector<Diagnostic> problems_;
};

std::string group_of(const std::string& path) {
  const std::size_t dot = path.find('.');
  const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
  if (section == "data") return "Data";
  if (section == "train") return "Training";
  if (section == "optim") return "Optimiser";
  if (section == "distill") return "Teaching";
  if (section == "log") return "Output";
  return "Run";
}

std::string default_of(const OptionKey& key) {
  if (const auto* text = std::get_if<std::string>(&key.default_value)) return *text;
  return to_toml(key.default_value);
}

std::vector<std::string> wrap(const std::string& text, std::size_t width) {
  std::vector<std::string> lines(1);
  for (const std::string& word : split(text, ' ')) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    if (!lines.back().empty()) lines.back() += ' ';
    lines.back() += word;
  }
  return lines;
}

std::string flag_line(const FlagSpec& flag) {
  std::string left = flag.short_name.empty() ? "      " : fmt::format("  {}, ", flag.short_name);
  left += flag.name;
  if (!flag.metavar.empty())
    left += flag.optional_value ? fmt::format("[={}]", flag.metavar) : " " + flag.metavar;
  std::string out;
  bool first = true;
  if (left.size() + 2 > kHelpColumn) {
    out += left + "\n";
    first = false;
  }
  for (const std::string& line : wrap(flag.help, kHelpWidth - kHelpColumn)) {
    out += fmt::format("{:<{}}{}\n", first ? left : "", kHelpColumn, line);
    first = false;
  }
  return out;
}

}  // namespace

bool Arguments::has(std::string_view flag) const {
  return std::any_of(uses.begin(), uses.end(), [&](const FlagUse& use) { return use.name == flag; });
}

std::string Arguments::value(std::string_view flag, std::string_view otherwise) const {
  std::string result(otherwise);
  for (const FlagUse& use : uses) {
    if (use.name == flag) result = use.value;
  }
  return result;
}

std::string Arguments::choice(std::string_view flag, const std::vector<std::string>& choices) const {
  const std::string given = value(flag, choices.front());
  if (std::find(choices.begin(), choices.end(), given) != choices.end()) return given;
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: '{}' is not one of {}", flag, printable(given), join(choices, ", ")), "");
}

std::vector<std::string> Arguments::values(std::string_view flag) const {
  std::vector<std::string> result;
  for (const FlagUse& use : uses) {
    if (use.name == flag) result.push_back(use.value);
  }
  return result;
}

ConfigSources Arguments::config_sources() const {
  ConfigSources sources;
  sources.files = values("--config");
  sources.sets = values("--set");
  sources.nets = values("--net");
  sources.inits = values("--init");
  sources.environment = cohort_environment();
  for (const FlagUse& use : uses) {
    const OptionKey* key = option_table().find_flag(use.name);
    if (key == nullptr) continue;
    // A switch says what it is about by its name: --no-graph turns off.
    const bool is_switch = key->type == KeyType::kBool && key->metavar.empty();
    const std::string state = use.name.compare(0, 5, "--no-") == 0 ? "false" : "true";
    sources.flags.push_back({use.name, key->path, is_switch ? state : use.value});
  }
  return sources;
}

std::vector<FlagSpec> setting_flags() {
  std::vector<FlagSpec> flags = {
      {"--config", "-c", "FILE", "TOML file with settings; may be repeated, later files win", "Run"},
      {"--set", "-s", "KEY=VALUE", "any setting, for example distill.dml.T=2; may be repeated", "Run"},
      {"--net", "", "MODEL[:k=v,..]",
       "a network of the cohort; repeat for each; keys id, init, lr, weight_decay (default: two "
       "resnet20)",
       "Run"},
      {"--init", "", "[ID=]FILE",
       "weights that network ID, or the next one in order, starts from; may be repeated", "Run"},
  };
  for (const OptionKey& key : option_table().keys()) {
    if (key.flag.empty()) continue;
    const std::string shown = key.metavar.empty() ? "" : default_of(key);
    std::string help = key.help;
    if (key.type == KeyType::kChoice && key.path != "preset")
      help += fmt::format(": {}", join(key.choices, ", "));
    if (!key.alias.empty()) help += fmt::format("; also {}", key.alias);
    if (!shown.empty()) help += fmt::format(" (default {})", shown);
    flags.push_back({key.flag, "", key.metavar, help, group_of(key.path), key.path, false, key.alias});
  }
  return flags;
}

FlagSpec json_flag() {
  return {"--json", "", "", "one JSON document on standard output", "Output"};
}

Arguments parse_arguments(const CommandSpec& command, const std::vector<std::string>& words) {
  return Parser(command).parse(words);
}

std::string command_help(const CommandSpec& command) {
  std::string out = fmt::format("cohort {}: {}\n\nExamples:\n", command.name, command.summary);
  for (const Example& example : command.examples) {
    out += fmt::format("  {}\n", example.command);
    if (!example.comment.empty()) out += fmt::format("      {}\n", example.comment);
  }
  out += fmt::format("\nUsage: cohort {}{}{}{}\n", command.name, command.positionals.empty() ? "" : " ",
                     command.positionals, command.flags.empty() ? "" : " [options]");
  std::vector<std::string> groups;
  for (const FlagSpec& flag : command.flags) {
    if (std::find(groups.begin(), groups.end(), flag.group) == groups.end()) groups.push_back(flag.group);
  }
  for (const std::string& group : groups) {
    out += fmt::format("\n{}:\n", group);
    for (const FlagSpec& flag : command.flags) {
      if (flag.group == group) out += flag_line(flag);
    }
  }
  if (!command.details.empty()) out += "\n" + command.details;
  return out;
}

std::string main_help(const std::vector<CommandSpec>& commands) {
  std::string out =
      "cohort: trains several image classifiers together, so that they teach each other\n\n"
      "Examples:\n"
      "  cohort train --fast-dev-run=5\n"
      "      a few steps of two small networks on generated images; nothing to download\n"
      "  cohort train --preset dml.paper --data-root data/cifar100 --net resnet32 --net wrn_16_2\n"
      "      a published recipe\n\n"
      "Usage: cohort COMMAND [options]\n\nCommands:\n";
  for (const CommandSpec& command : commands)
    out += fmt::format("  {:<10}  {}\n", command.name, command.summary);
  out +=
      "\n'cohort COMMAND --help' shows its options; 'cohort --version [--json]' the build.\n"
      "Exit codes: 0 done, 1 internal error, 2 usage, 3 input data, 4 output or disk, 5 memory, 6 device, 7 "
      "not finite,\n"
      "8 run folder busy, 9 checkpoint, 75 stopped after saving (resume it), 130 Ctrl-C after saving.\n";
  return out;
}

}  // namespace cohort::tools
