// The merge behind resolve_config: applies one source after the other and collects the mistakes.
#pragma once

#include <string>
#include <vector>

#include "tools/config.h"
#include "tools/toml_reader.h"

namespace cohort::tools {

class ConfigBuilder {
 public:
  ConfigBuilder();  // every key at its default

  void apply_document(const TomlDocument& document, const std::string& name);
  // `shown` is what the user typed it as: "--set", "--epochs", "COHORT_SEED".
  void apply_text(const std::string& given, std::string_view text, const std::string& shown);
  void apply_set(const std::string& assignment);
  void apply_environment(const std::string& name, const std::string& text);
  void apply_nets(const std::vector<std::string>& nets);
  void apply_inits(const std::vector<std::string>& inits);
  void add_problem(Diagnostic diagnostic) { problems_.push_back(std::move(diagnostic)); }

  // Fills in what depends on several keys, checks them together; throws UsageErrors.
  Config finish();

 private:
  struct Source {
    const TomlDocument& document;
    const std::string& name;
  };
  void apply_table(const Source& source, const TomlNode& table, const std::string& prefix);
  void apply_networks(const Source& source, const TomlNode& node);
  void apply_network_table(const Source& source, const TomlNode& table, const std::string& prefix,
                           NetworkSettings& network);
  void set_network_value(NetworkSettings& network, const OptionKey& key, ConfigValue value);
  NetworkSettings parse_net(const std::string& text);
  void unknown_key(const Source& source, const TomlNode& node, const std::string& path,
                   const OptionTable& table);
  void document_problem(const Source& source, TomlMark mark, std::string headline, std::string note,
                        std::string help = {});
  void argument_problem(std::string headline, const std::string& shown, std::string help = {});
  void check_networks();
  void give_inits();
  void check_models();
  void check_fidelity();
  void check_together();

  Config config_;
  std::vector<std::string> inits_;
  std::vector<Diagnostic> problems_;
};

}  // namespace cohort::tools
