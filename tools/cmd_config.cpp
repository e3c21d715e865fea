#include "tools/commands.h"
#include "tools/messages.h"
#include "tools/text.h"

namespace cohort::tools {
namespace {

int run_config(const Arguments& arguments) {
  const std::string& verb = arguments.positionals[0];
  ConfigSources sources = arguments.config_sources();
  if (verb == "init") sources.environment.clear();  // a file to keep must not hold this shell's variables
  const Config config = resolve_config(sources);
  for (const Diagnostic& warning : config.warnings()) write_all(2, render(warning, stderr_color()));
  if (verb == "show") {
    print_out(config.to_toml(true));
  } else if (verb == "init") {
    print_out(config_template(config));
  } else {
    print_out("the settings are valid\n");
  }
  return 0;
}

}  // namespace

CommandSpec config_command() {
  CommandSpec spec;
  spec.name = "config";
  spec.summary = "writes, checks and shows settings";
  spec.verbs = {"init", "check", "show"};
  spec.positionals = "init|check|show";
  spec.min_positionals = 1;
  spec.max_positionals = 1;
  spec.examples = {
      {"cohort config init --preset dml.paper > run.toml", "a commented file with every setting"},
      {"cohort config show -c run.toml --lr 0.05", "the settings in force and where each comes from"}};
  spec.flags = setting_flags();
  spec.details =
      "Order: defaults < preset < fidelity < configuration files in order < COHORT_* environment < --set < "
      "named "
      "flags.\n"
      "A variable is COHORT_ and the key in capitals: COHORT_TRAIN_EPOCHS=3.\n";
  spec.run = run_config;
  return spec;
}

}  // namespace cohort::tools
