// The subcommands; each is defined in cmd_<name>.cpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tools/args.h"

namespace cohort::tools {

CommandSpec train_command();
CommandSpec eval_command();
CommandSpec predict_command();
CommandSpec compare_command();
CommandSpec reproduce_command();
CommandSpec report_command();
CommandSpec inspect_command();
CommandSpec loss_command();
CommandSpec perturb_command();
CommandSpec bench_command();
CommandSpec list_command();
CommandSpec config_command();
CommandSpec doctor_command();

const std::vector<CommandSpec>& all_commands();

// The exit code of `work`, or of the error that it threw, which is printed.
int reporting(const std::function<int()>& work);

// The whole program: parses, runs, reports; returns the exit code and never throws.
int run_cli(const std::vector<std::string>& words);

}  // namespace cohort::tools
