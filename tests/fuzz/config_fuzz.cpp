// Any text as a configuration file: it is refused with messages that render, or its resolved form reads back
// as the same settings.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "tools/config.h"
#include "tools/toml_reader.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cohort::tools;
  const std::string text(data, data + size);
  const TomlDocument document = read_toml(text);
  for (const TomlProblem& problem : document.problems)
    require(problem.mark.line >= 0 && problem.mark.length >= 1);
  try {
    const Config config = parse_config(text, "fuzz.toml");
    require(document.problems.empty());
    const std::string resolved = config.to_toml();
    const Config again = parse_config(resolved, "resolved.toml");
    require(again.difference(config).empty() && again.to_toml() == resolved);
  } catch (const UsageErrors& error) {
    require(!error.diagnostics().empty());
    for (const Diagnostic& diagnostic : error.diagnostics()) require(!render(diagnostic, true).empty());
  }
  return 0;
}
