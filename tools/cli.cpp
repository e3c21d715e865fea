#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <new>
#include <system_error>

#include "tools/build_info.h"
#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/signals.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

const CommandSpec* find_command(const std::string& name) {
  const auto& commands = all_commands();
  const auto it = std::find_if(commands.begin(), commands.end(),
                               [&](const CommandSpec& spec) { return spec.name == name; });
  return it == commands.end() ? nullptr : &*it;
}

const CommandSpec& require_command(const std::string& name) {
  if (const CommandSpec* command = find_command(name)) return *command;
  std::vector<std::string> names = {"help"};
  for (const CommandSpec& command : all_commands()) names.push_back(command.name);
  const std::string suggestion = did_you_mean(name, names);
  throw Error(ErrorKind::kUsage,
              fmt::format("unknown {} '{}'{}{}", name.substr(0, 1) == "-" ? "option" : "command",
                          printable(name), suggestion.empty() ? "" : "; ", suggestion),
              "'cohort --help' lists the commands");
}

bool wants_help(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    if (word == "--") return false;
    if (word == "--help" || word == "-h") return true;
  }
  return false;
}

int print_version(const std::vector<std::string>& words) {
  for (std::size_t i = 1; i < words.size(); ++i) {
    if (words[i] != "--json") {
      throw Error(ErrorKind::kUsage, fmt::format("unexpected argument '{}'", printable(words[i])),
                  "cohort --version [--json]");
    }
  }
  print_out(words.size() > 1 ? build_info_json() + "\n" : fmt::format("cohort {}\n", build_info().version));
  return 0;
}

// --color must act on the messages about the command line itself.
void apply_color(const std::vector<std::string>& words) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::string value;
    if (words[i].compare(0, 8, "--color=") == 0) value = words[i].substr(8);
    if (words[i] == "--color" && i + 1 < words.size()) value = words[i + 1];
    if (value == "always") set_color_mode(ColorMode::kAlways);
    if (value == "never") set_color_mode(ColorMode::kNever);
  }
}

int dispatch(const std::vector<std::string>& words) {
  apply_color(words);
  if (words.empty() || words[0] == "--help" || words[0] == "-h") {
    print_out(main_help(all_commands()));
    return 0;
  }
  if (words[0] == "--version" || words[0] == "-V") return print_version(words);
  if (words[0] == "help") {
    if (words.size() > 2) {
      throw Error(ErrorKind::kUsage, fmt::format("unexpected argument '{}'", printable(words[2])),
                  "cohort help [COMMAND]");
    }
    print_out(words.size() == 1 ? main_help(all_commands()) : command_help(require_command(words[1])));
    return 0;
  }
  const CommandSpec& command = require_command(words[0]);
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  if (wants_help(rest)) {
    print_out(command_help(command));
    return 0;
  }
  Arguments arguments = parse_arguments(command, rest);
  arguments.words = words;
  return command.run(arguments);
}

int report(ErrorKind kind, const std::string& message, const std::string& hint) {
  const Error error(kind, message, hint);
  print_error(error);
  return error.exit_code();
}

}  // namespace

int reporting(const std::function<int()>& work) {
  try {
    return work();
  } catch (const Error& error) {
    print_error(error);
    return error.exit_code();
  } catch (const std::bad_alloc&) {
    return report(ErrorKind::kMemory, "out of memory", "a smaller --batch-size or fewer networks need less");
  } catch (const std::system_error& error) {
    return report(ErrorKind::kOutput, error.what(), "");
  } catch (const std::exception& error) {
    return report(ErrorKind::kInternal, error.what(), "this is a bug in cohort: please report it");
  } catch (...) {
    return report(ErrorKind::kInternal, "unknown exception", "this is a bug in cohort: please report it");
  }
}

int run_cli(const std::vector<std::string>& words) {
  return reporting([&] {
    install_signal_handlers();
    const int code = dispatch(words);
    // Half an answer on a full disk is no success; a reader that went away (head -1) wanted no more.
    if (code == 0 && out_failure() != 0 && out_failure() != EPIPE)
      return static_cast<int>(ErrorKind::kOutput);
    return code;
  });
}

}  // namespace cohort::tools
