// The command line: a table of subcommands, each with its flags; one parser (CLI11 behind our table and
// messages), one help writer.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tools/config.h"

namespace cohort::tools {

struct FlagSpec {
  std::string name;        // "--out"
  std::string short_name;  // "-o"; may be empty
  std::string metavar;     // "DIR"; empty: a switch
  std::string help;
  std::string group;            // heading in --help
  std::string key{};            // the setting behind it; empty: the command's own
  bool optional_value = false;  // --fast-dev-run[=N]: only with '='
  std::string alias{};          // a second long name
};

struct Example {
  std::string command;
  std::string comment;
};

struct Arguments;

struct CommandSpec {
  std::string name;
  std::string summary;
  std::string positionals;  // "RUN or WEIGHTS..." for the usage line
  int min_positionals = 0;
  int max_positionals = 0;
  std::vector<std::string> verbs;  // choices of the first positional; empty: free
  std::vector<Example> examples;
  std::vector<FlagSpec> flags;
  int (*run)(const Arguments&) = nullptr;
  std::string details{};  // closing paragraphs of --help
};

struct FlagUse {
  std::string name;  // the long name
  std::string value;
};

struct Arguments {
  const CommandSpec* command = nullptr;
  std::vector<std::string> positionals;
  std::vector<FlagUse> uses;
  std::vector<std::string> words;  // everything behind "cohort", as it was given

  bool has(std::string_view flag) const;
  // The last one given, or `otherwise`.
  std::string value(std::string_view flag, std::string_view otherwise = "") const;
  std::vector<std::string> values(std::string_view flag) const;
  // One of these, the first when the flag is not given. Throws Error(kUsage) for another.
  std::string choice(std::string_view flag, const std::vector<std::string>& choices) const;
  // -c, --set, --net and the named flags, with the environment of the process.
  ConfigSources config_sources() const;
};

// -c, --set, --net and every flag of the option table.
std::vector<FlagSpec> setting_flags();
FlagSpec json_flag();

// `words` without the command's name. --help may stand anywhere: the caller looks for it first.
Arguments parse_arguments(const CommandSpec& command, const std::vector<std::string>& words);

std::string command_help(const CommandSpec& command);
std::string main_help(const std::vector<CommandSpec>& commands);

}  // namespace cohort::tools
