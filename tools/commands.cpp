#include "tools/commands.h"

namespace cohort::tools {

const std::vector<CommandSpec>& all_commands() {
  static const std::vector<CommandSpec> commands = {
      train_command(),  eval_command(),    predict_command(), compare_command(), reproduce_command(),
      report_command(), inspect_command(), loss_command(),    perturb_command(), bench_command(),
      config_command(), list_command(),    doctor_command()};
  return commands;
}

}  // namespace cohort::tools
