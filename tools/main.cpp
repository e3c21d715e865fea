#include <string>
#include <vector>

#include "tools/commands.h"

int main(int argc, char** argv) {
  return cohort::tools::run_cli(argc > 0 ? std::vector<std::string>(argv + 1, argv + argc)
                                         : std::vector<std::string>());
}
